// The answer: the value, its interval as a bar, the value in the data, warnings, and rows to compare.

import { axisOf, ticksOf } from "./axis.js";
import { amount, amounts, byId, element, kilometres, tick } from "./text.js";

const BARS = 50;

let ends = [0, 1]; // of the axis, unless an interval goes further: 0 or the least, and the greatest value in the data

/** Show a prediction; `actual` is the value in the data, if the numbers are still those of a place. */
export function showAnswer(prediction, actual, table, title) {
  const { [table.answer]: value, interval, model_version: version, warnings } = prediction;
  byId("invitation").hidden = true;
  byId("refusal").hidden = true;
  byId("answer").hidden = false;
  byId("answer").classList.remove("stale");
  byId("price").textContent = amount(value);
  byId("unit").textContent = unitOf(value, table);
  byId("made-by").hidden = false;
  byId("made-by").textContent = `version ${version}`;
  byId("interval").textContent =
    `${amounts(interval.low, interval.high)}: ${Math.round(100 * interval.coverage)} % of true values ` +
    "lie in such a range.";
  byId("key").hidden = false;
  byId("truth").hidden = actual === undefined;
  if (actual !== undefined) {
    const inside = interval.low <= actual && actual <= interval.high;
    byId("truth").replaceChildren(
      element("span", { className: "diamond", ariaHidden: "true" }),
      element("b", { textContent: amount(actual) }),
      ` in the data, ${inside ? "inside" : "outside"} the range. The model was trained on most ${table.rows}, ` +
        "possibly on this one.",
    );
  }
  showScale(value, interval, actual);
  const lines = warnings.map((line) => line.replace(/^[\p{L}\p{N}_]+/u, (name) => title(name)));
  byId("warnings").replaceChildren(...lines.map((line) => element("li", { textContent: line })));
  byId("warnings").hidden = lines.length === 0;
}

/** Return the unit of a value, with the value if it is shown in another one; nothing where it follows the value. */
function unitOf(value, { unit, display }) {
  if (display.factor !== 1) return `${value.toFixed(3)} in units of ${unit}`;
  return display.suffix.trim() === unit ? "" : unit;
}

/** Invite to a first question, until there is an answer. */
export function showInvitation() {
  if (!byId("answer").hidden) return;
  byId("refusal").hidden = true;
  byId("invitation").hidden = false;
}

/** Show why there is no new answer; an old one stays, but looks outdated. */
export function showRefusal(message) {
  byId("refusal").textContent = message;
  byId("refusal").hidden = false;
  byId("invitation").hidden = true;
  byId("answer").classList.add("stale");
}

/** List rows to compare; `onVisit(row)` is called for one that somebody chooses. */
export function showComparable(rows, columns, onVisit) {
  byId("main").classList.remove("fresh");
  byId("comparable").replaceChildren(
    ...rows.map((row, i) => {
      const visit = element("button", { type: "button", className: "visit", textContent: i + 1 });
      visit.ariaLabel = `Ask at ${byId("comparable-heads").cells[0].textContent.toLowerCase()} ${i + 1}`;
      visit.addEventListener("click", () => onVisit(row));
      const away = row.kilometres < 0.05 ? "here" : kilometres(row.kilometres ?? 0);
      return element(
        "tr",
        {},
        element("td", {}, visit),
        ...(row.kilometres === null ? [] : [element("td", { textContent: away })]),
        element("td", {}, element("b", { textContent: amount(row.actual_value) })),
        ...columns.map(({ column, write }) => element("td", { textContent: write(row.features[column]) })),
      );
    }),
  );
}

/** Draw how often each value occurs in the data. */
export function showDistribution(values) {
  const [least, most] = axisOf(values);
  ends = [least > 0 && least < most / 2 ? 0 : least, most];
  const counts = new Array(BARS).fill(0);
  const width = (ends[1] - ends[0]) / BARS;
  for (const value of values) counts[Math.max(0, Math.min(BARS - 1, Math.floor((value - ends[0]) / width)))]++;
  const highest = Math.max(...counts);
  const corners = counts.flatMap((number, i) => {
    const top = `${(100 - (100 * number) / highest).toFixed(2)}%`;
    return [i, i + 1].map((x) => `${(100 * x) / BARS}% ${top}`);
  });
  for (const part of ["all", "inside"])
    byId("scale").querySelector(`.${part}`).style.clipPath = `polygon(0 100%, ${corners}, 100% 100%)`;
  showTicks(...ends);
}

function showScale(value, interval, actual) {
  const scale = byId("scale");
  const [least, most] = ends;
  const low = Math.min(least, interval.low, actual ?? value, value);
  const high = Math.max(most, interval.high, actual ?? value, value);
  const at = (number) => `${(100 * (number - low)) / (high - low)}%`;
  const inside = (number) => `${(100 * (number - least)) / (most - least)}%`;
  const [point, truth] = [".point", ".truth"].map((name) => scale.querySelector(name));
  scale.classList.add("answered");
  scale.style.setProperty("--left", at(least));
  scale.style.setProperty("--cap", `${(100 * (most - least)) / (high - low)}%`);
  scale.style.setProperty("--low", inside(interval.low));
  scale.style.setProperty("--high", inside(interval.high));
  point.hidden = false;
  point.style.left = at(value);
  truth.hidden = actual === undefined;
  if (actual !== undefined) truth.style.left = at(actual);
  showTicks(low, high);
}

function showTicks(low, high) {
  const marks = ticksOf(low, high, 6).map((number) =>
    element("span", { textContent: tick(number), style: `left: ${(100 * (number - low)) / (high - low)}%` }),
  );
  document.querySelector(".ends").replaceChildren(...marks);
}
