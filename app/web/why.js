// Why the value is what it is: what each input adds to the average, and what the width of the range comes from.

import { amount, amounts, byId, change, element, kilometres, percent, written } from "./text.js";

const BARS = 8; // inputs with a bar of their own; the others are one together
const NEIGHBOURS = 5;
const HERE = 0.05; // kilometres
const WORDS = {
  nearest_km: ({ value, usual }) =>
    value < HERE
      ? "There is training data of the very place"
      : `The nearest training place is ${kilometres(value)} away, usually ${kilometres(usual)}`,
  neighbour_spread: ({ value, usual }) =>
    `The values of the neighbours are ${amount(value)} apart, usually ${amount(usual)} (standard deviation)`,
  rows_alike: ({ value, usual }) => `${percent(value)} of the training data is like it, usually ${percent(usual)}`,
};
const EFFECTS = { wider: "makes the range wider", narrower: "makes it narrower", usual: "as usual" };

/** Show an explanation. */
export function showWhy(explanation, table) {
  const { [table.answer]: value, base_value: base, contributions } = explanation;
  const parts = contributions.length > BARS ? together(contributions) : contributions;
  byId("why-sum").textContent = `The average is ${amount(base)}. ${sumOf(parts)}. Together: ${amount(value)}.`;
  const most = Math.max(...parts.map(({ contribution }) => Math.abs(contribution))) || 1;
  byId("why-bars").replaceChildren(...parts.map((part) => barOf(part, most, table)));
  showRange(explanation);
  showNeighbours(explanation.neighbours);
  for (const id of ["why", "range"]) {
    byId(id).hidden = false;
    byId(id).classList.remove("stale");
  }
}

/** Have an explanation look outdated until that of a new answer comes. */
export function ageWhy() {
  for (const id of ["why", "range"]) byId(id).classList.add("stale");
}

/** Hide the explanation where there is none of the answer. */
export function hideWhy() {
  for (const id of ["why", "range"]) byId(id).hidden = true;
}

/** Return the greatest contributions, and the sum of the others as one. */
function together(contributions) {
  const others = contributions.slice(BARS - 1);
  const sum = (name) => others.reduce((total, part) => total + part[name], 0);
  const title = `${others.length} others`;
  return [...contributions.slice(0, BARS - 1), { title, values: {}, contribution: sum("contribution") }];
}

function sumOf(parts) {
  const said = parts.slice(0, 3).map(({ title, contribution }) => `${title} ${change(contribution)}`);
  return said.join(", ") + (parts.length > 3 ? ", and less from the others" : "");
}

function barOf({ title, values, contribution, standard_error: error }, most, { features }) {
  const given = Object.entries(values).map(([name, value]) =>
    written(value, features.find((feature) => feature.name === name)?.type),
  );
  const bar = element("span", { className: contribution < 0 ? "less" : "more" });
  bar.style.setProperty("--size", `${(50 * Math.abs(contribution)) / most}%`);
  return element(
    "li",
    {},
    element("span", { className: "name" }, title, " ", element("span", { className: "soft", textContent: given.join(", ") })),
    element("span", { className: "bar", ariaHidden: "true" }, bar),
    element("b", { textContent: change(contribution), title: error ? `± ${amount(error)} (standard error)` : "" }),
  );
}

function showRange({ interval, interval_reasons: found }) {
  const { width, usual_width: usual, wider_than: share, reasons } = found;
  byId("range-width").textContent =
    `${amounts(interval.low, interval.high)} is a range of ${amount(width)}, wider than that of ${percent(share)} of the ` +
    `training data; ${amount(usual)} is usual.`;
  byId("range-reasons").replaceChildren(
    ...reasons.map((reason) => element("li", { textContent: `${WORDS[reason.name](reason)}: ${EFFECTS[reason.effect]}.` })),
  );
}

function showNeighbours(neighbours) {
  byId("neighbours").hidden = !neighbours.length;
  const heaviest = neighbours.slice(0, NEIGHBOURS).map(({ kilometres: away, actual_value: value, weight }) =>
    element(
      "tr",
      {},
      element("td", { textContent: away < HERE ? "here" : kilometres(away) }),
      element("td", {}, element("b", { textContent: amount(value) })),
      element("td", { textContent: percent(weight) }),
    ),
  );
  byId("neighbours-heaviest").replaceChildren(...heaviest);
  const rest = neighbours.length - heaviest.length;
  byId("neighbours-rest").textContent = rest > 0 ? `${rest} more have smaller weights.` : "";
}
