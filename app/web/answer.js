// The answer: the value, its interval as a bar, what the census found, warnings, and comparable places.

import { byId, dollars, element, kilometres, short } from "./text.js";

const CAP = 5; // of the census, in the model's unit: the axis ends here unless an interval goes further
const BARS = 50;

/** Show a prediction; `actual` is the census' value of the same place, if the numbers are still those of a place. */
export function showAnswer(prediction, actual, title) {
  const { predicted_median_house_value: value, interval, model_version: version, warnings } = prediction;
  byId("invitation").hidden = true;
  byId("refusal").hidden = true;
  byId("answer").hidden = false;
  byId("answer").classList.remove("stale");
  byId("price").textContent = dollars(value);
  byId("unit").textContent = `${value.toFixed(3)} × 100,000 US dollars of 1990`;
  byId("made-by").hidden = false;
  byId("made-by").textContent = `version ${version}`;
  byId("interval").textContent =
    `${dollars(interval.low)} to ${dollars(interval.high)}: ${Math.round(100 * interval.coverage)} % of true values ` +
    "lie in such a range.";
  byId("key").hidden = false;
  byId("truth").hidden = actual === undefined;
  if (actual !== undefined) {
    const inside = interval.low <= actual && actual <= interval.high;
    byId("truth").replaceChildren(
      element("span", { className: "diamond", ariaHidden: "true" }),
      element("b", { textContent: dollars(actual) }),
      ` in the census, ${inside ? "inside" : "outside"} the range. Most block groups were in the training ` +
        "data, so the model may have seen this one.",
    );
  }
  showScale(value, interval, actual);
  const lines = warnings.map((line) => line.replace(/^\w+/, (name) => title(name)));
  byId("warnings").replaceChildren(...lines.map((line) => element("li", { textContent: line })));
  byId("warnings").hidden = lines.length === 0;
}

/** Ask for the first question, as long as there was none. */
export function showInvitation() {
  if (!byId("answer").hidden) return;
  byId("refusal").hidden = true;
  byId("invitation").hidden = false;
}

/** Show why there is no new answer; an old one stays, but does not look like the present one. */
export function showRefusal(message) {
  byId("refusal").textContent = message;
  byId("refusal").hidden = false;
  byId("invitation").hidden = true;
  byId("answer").classList.add("stale");
}

/** List comparable places; `onVisit(place)` is called for one that somebody wants to see. */
export function showComparable(places, onVisit) {
  byId("main").classList.remove("fresh");
  byId("comparable").replaceChildren(
    ...places.map((place, i) => {
      const visit = element("button", { type: "button", className: "visit", textContent: i + 1 });
      visit.setAttribute("aria-label", `Ask at place ${i + 1}`);
      visit.addEventListener("click", () => onVisit(place));
      const { MedInc, AveRooms, HouseAge } = place.features;
      return element(
        "tr",
        {},
        element("td", {}, visit),
        element("td", { textContent: place.kilometres < 0.05 ? "here" : kilometres(place.kilometres) }),
        element("td", {}, element("b", { textContent: dollars(place.actual_value) })),
        element("td", { textContent: dollars(MedInc / 10) }),
        element("td", { textContent: AveRooms.toFixed(1) }),
        element("td", { textContent: short(HouseAge) }),
      );
    }),
  );
}

/** Draw how often each value occurs: `shades` are values in steps of `step`, all within 0 and the cap. */
export function showDistribution(shades, step) {
  const counts = new Array(BARS).fill(0);
  for (const shade of shades) counts[Math.min(BARS - 1, Math.floor((shade * step * BARS) / CAP))]++;
  const highest = Math.max(...counts);
  const corners = counts.flatMap((number, i) => {
    const top = 100 - (100 * number) / highest;
    return [
      [i, top],
      [i + 1, top],
    ].map(([x, y]) => `${(100 * x) / BARS}% ${y.toFixed(2)}%`);
  });
  for (const part of ["all", "inside"])
    byId("scale").querySelector(`.${part}`).style.clipPath = `polygon(0 100%, ${corners}, 100% 100%)`;
  showTicks(CAP);
}

function showScale(value, interval, actual) {
  const scale = byId("scale");
  const end = Math.max(CAP, interval.high, actual ?? 0, value);
  const at = (number) => `${(100 * number) / end}%`;
  const [point, truth] = [".point", ".truth"].map((name) => scale.querySelector(name));
  scale.classList.add("answered");
  scale.style.setProperty("--cap", at(CAP));
  scale.style.setProperty("--low", `${(100 * interval.low) / CAP}%`);
  scale.style.setProperty("--high", `${(100 * interval.high) / CAP}%`);
  point.hidden = false;
  point.style.left = at(value);
  truth.hidden = actual === undefined;
  if (actual !== undefined) truth.style.left = at(actual);
  showTicks(end);
}

function showTicks(end) {
  const ticks = Array.from({ length: Math.floor(end) + 1 }, (_, number) => number);
  byId("scale")
    .querySelector(".ends")
    .replaceChildren(
      ...ticks.map((number) => {
        const tick = element("span", { textContent: number ? `$${number}00k` : "$0" });
        tick.style.left = `${(100 * number) / end}%`;
        return tick;
      }),
    );
}
