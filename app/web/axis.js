// From where to where an axis goes, and its marks.

import { DAY, isoOf } from "./text.js";

const TAIL = 0.01;
// A unit, its days, and of how many the steps between two marks are.
const UNITS = [
  ["hour", 1 / 24, [1, 3, 6, 12]],
  ["day", 1, [1, 2, 7, 14]],
  ["month", 30, [1, 3, 6]],
  ["year", 365, [1, 2, 5, 10, 20, 50, 100]],
];

/** Return the ends of an axis for some values. A tail of a hundredth that would take half of the axis is cut off. */
export function axisOf(values) {
  const ordered = Float64Array.from(values).sort();
  const at = (share) => ordered[Math.round(share * (ordered.length - 1))];
  const middle = at(1 - TAIL) - at(TAIL);
  const low = at(TAIL) - at(0) > middle && middle > 0 ? at(TAIL) : at(0);
  const high = at(1) - at(1 - TAIL) > middle && middle > 0 ? at(1 - TAIL) : at(1);
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}

/** Return round numbers from `low` to `high`, about `most` of them at most. */
export function ticksOf(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((candidate) => candidate >= rough * (1 - 1e-9));
  const first = Math.ceil(low / step - 1e-6);
  return Array.from({ length: Math.floor(high / step + 1e-6) - first + 1 }, (_, i) => (first + i) * step);
}

/** Return the same of days since 1970, as `[day, text]`: the beginnings of years, months, days or hours. */
export function datesOf(low, high, most) {
  const rough = (high - low) / most;
  const [unit, days, steps] = UNITS.find(([, days, steps]) => rough <= days * steps.at(-1)) ?? UNITS.at(-1);
  const step = steps.find((candidate) => candidate * days >= rough) ?? steps.at(-1);
  if (unit === "hour" || unit === "day") {
    const size = unit === "day" ? step : step / 24;
    const first = Math.ceil(low / size);
    const starts = Array.from({ length: Math.floor(high / size) - first + 1 }, (_, i) => (first + i) * size);
    return starts.map((day) => [day, isoOf(day).slice(...(unit === "day" ? [0, 10] : [5, 16])).replace("T", " ")]);
  }
  const months = unit === "year" ? 12 * step : step;
  const begin = new Date(low * DAY);
  const ticks = [];
  for (let month = 12 * begin.getUTCFullYear() + begin.getUTCMonth(); ; month++) {
    const day = Date.UTC(Math.floor(month / 12), month % 12) / DAY;
    if (day > high) return ticks;
    if (day >= low && month % months === 0) ticks.push([day, isoOf(day).slice(0, unit === "year" ? 4 : 7)]);
  }
}
