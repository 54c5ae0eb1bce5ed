// The answer: the value, its interval as a bar, the value in the data, warnings, and comparable places.

import { amount, byId, element, kilometres, short, tick } from "./text.js";

const BARS = 50;

let cap = 1; // the greatest value in the data: the axis ends here unless an interval goes further

/** Show a prediction; `actual` is the value in the data, if the numbers are still those of a place. */
export function showAnswer(prediction, actual, table, title) {
  const { [table.answer]: value, interval, model_version: version, warnings } = prediction;
  byId("invitation").hidden = true;
  byId("refusal").hidden = true;
  byId("answer").hidden = false;
  byId("answer").classList.remove("stale");
  byId("price").textContent = amount(value);
  byId("unit").textContent = `${value.toFixed(3)} in units of ${table.unit}`;
  byId("made-by").hidden = false;
  byId("made-by").textContent = `version ${version}`;
  byId("interval").textContent =
    `${amount(interval.low)} to ${amount(interval.high)}: ${Math.round(100 * interval.coverage)} % of true values ` +
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
  const lines = warnings.map((line) => line.replace(/^\w+/, (name) => title(name)));
  byId("warnings").replaceChildren(...lines.map((line) => element("li", { textContent: line })));
  byId("warnings").hidden = lines.length === 0;
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

/** List comparable places; `onVisit(place)` is called for one that somebody chooses. */
export function showComparable(places, columns, onVisit) {
  byId("main").classList.remove("fresh");
  byId("comparable").replaceChildren(
    ...places.map((place, i) => {
      const visit = element("button", { type: "button", className: "visit", textContent: i + 1 });
      visit.setAttribute("aria-label", `Ask at place ${i + 1}`);
      visit.addEventListener("click", () => onVisit(place));
      return element(
        "tr",
        {},
        element("td", {}, visit),
        element("td", { textContent: place.kilometres < 0.05 ? "here" : kilometres(place.kilometres) }),
        element("td", {}, element("b", { textContent: amount(place.actual_value) })),
        ...columns.map(({ column, per, as }) => {
          const value = place.features[column] / per;
          return element("td", { textContent: as === "display" ? amount(value) : short(Number(value.toFixed(1))) });
        }),
      );
    }),
  );
}

/** Draw how often each value occurs in the data. */
export function showDistribution({ shades, highest, valueStep }) {
  cap = highest * valueStep;
  const counts = new Array(BARS).fill(0);
  for (const shade of shades) counts[Math.min(BARS - 1, Math.floor((shade * BARS) / highest))]++;
  const most = Math.max(...counts);
  const corners = counts.flatMap((number, i) => {
    const top = `${(100 - (100 * number) / most).toFixed(2)}%`;
    return [i, i + 1].map((x) => `${(100 * x) / BARS}% ${top}`);
  });
  for (const part of ["all", "inside"])
    byId("scale").querySelector(`.${part}`).style.clipPath = `polygon(0 100%, ${corners}, 100% 100%)`;
  showTicks(cap);
}

function showScale(value, interval, actual) {
  const scale = byId("scale");
  const end = Math.max(cap, interval.high, actual ?? 0, value);
  const at = (number) => `${(100 * number) / end}%`;
  const [point, truth] = [".point", ".truth"].map((name) => scale.querySelector(name));
  scale.classList.add("answered");
  scale.style.setProperty("--cap", at(cap));
  scale.style.setProperty("--low", `${(100 * interval.low) / cap}%`);
  scale.style.setProperty("--high", `${(100 * interval.high) / cap}%`);
  point.hidden = false;
  point.style.left = at(value);
  truth.hidden = actual === undefined;
  if (actual !== undefined) truth.style.left = at(actual);
  showTicks(end);
}

function showTicks(end) {
  const rough = end / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((candidate) => candidate >= rough);
  const ticks = Array.from({ length: Math.floor(end / step + 1e-6) + 1 }, (_, i) => i * step);
  byId("scale")
    .querySelector(".ends")
    .replaceChildren(
      ...ticks.map((number) => {
        const mark = element("span", { textContent: tick(number) });
        mark.style.left = `${(100 * number) / end}%`;
        return mark;
      }),
    );
}
