// Connect the parts of the page: the map or the chart, the form, the answer, files and the state of the system.

import { showAnswer, showComparable, showDistribution, showInvitation, showRefusal } from "./answer.js";
import { Problem, ask, askBytes } from "./api.js";
import { ChartPanel } from "./chart.js";
import { watchFiles } from "./files.js";
import { Form } from "./form.js";
import { MapPanel } from "./map.js";
import { drawLens } from "./picture.js";
import { Places } from "./places.js";
import { watchSystem } from "./system.js";
import { amount, announce, byId, count, element, short, tick, writeAs, written } from "./text.js";
import { ageWhy, hideWhy, showWhy } from "./why.js";

const LANDMARK_ZOOM = 7;
const SUGGESTED = 4;
const COMPARED = 4; // features of rows to compare, where the table names none: those that move the answer most
const placed = !byId("map").closest("section").hidden;
let table = null; // the words and numbers of the table
let leading = []; // its features, those first that move the prediction for the example most, if that was asked
let places = null;
let chosen = null; // the row whose values are in the form, until somebody changes them
let drawAround = () => {};
let question = null; // aborts the previous one, so that the last click wins
let askAgain = null; // repeats a question that the service could not answer

const form = new Form(byId("form"), byId("fields"), () => tryTo(answer));
const map = placed && new MapPanel(byId("map"), byId("readout"), visitPlace);
const chart = !placed && new ChartPanel(byId("chart"), byId("point"), (number) => visit(`rows/points/${number}`));

function visitPlace(latitude, longitude) {
  return visit(`places/nearest?latitude=${latitude}&longitude=${longitude}`);
}

/** Fill the form with a row of the data, and predict. */
function visit(address) {
  return tryTo(async (signal) => {
    const row = await ask(address, { signal });
    form.fill(row.features);
    chosen = row;
    await answer(signal);
  });
}

/** Do the work of a question. It is repeated when the service answers again, if it could not answer now. */
async function tryTo(work) {
  question?.abort();
  question = new AbortController();
  try {
    await work(question.signal);
    askAgain = null;
  } catch (problem) {
    if (problem.name === "AbortError") return;
    askAgain = refuse(problem) ? () => tryTo(work) : null;
  }
}

async function answer(signal) {
  const values = form.read();
  const actual = chosen && form.has(chosen.features) ? chosen.actual_value : undefined;
  const prediction = await ask("predict", { body: values, signal });
  const { [table.answer]: value, interval, warnings } = prediction;
  form.blame({});
  ageWhy();
  showAnswer(prediction, actual, table, (name) => form.title(name));
  announce(
    `${amount(value)}, between ${amount(interval.low)} and ${amount(interval.high)}. ` +
      (warnings.length ? `${warnings.length} ${warnings.length > 1 ? "warnings" : "warning"}.` : ""),
  );
  showAround(values, { value, ...interval }, await ask("rows/alike", { body: values, signal }));
  form.showCurves(await curvesOf(values, signal));
  byId("curves").hidden = false;
  await explain(values, signal);
}

/** Show why, after everything else; without an explanation the answer stands alone. */
async function explain(values, signal) {
  try {
    showWhy(await ask("explain", { body: values, signal }), table);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    hideWhy();
  }
}

/** Return the curves of a row; none if they cannot be computed, as the answer does not need them. */
function curvesOf(values, signal) {
  return ask("curves", { body: values, signal }).catch((problem) => {
    if (problem instanceof Problem) return [];
    throw problem;
  });
}

function showAround(features, answered, alike) {
  showComparable(alike, comparedColumns(), (row) => {
    form.fill(row.features);
    chosen = row;
    tryTo(answer);
  });
  if (!placed) {
    byId("chart-key").hidden = false;
    return chart.mark({ features, ...answered }, alike);
  }
  const pointOf = (row) => ({ north: row[table.place.latitude], east: row[table.place.longitude] });
  const point = pointOf(features);
  const others = alike.map((row) => pointOf(row.features));
  map.mark(point, others);
  drawAround = () => {
    if (!places) return;
    const width = drawLens(byId("lens"), places, point, others);
    byId("lens-scale").textContent = `${width < 20 ? width.toFixed(1) : Math.round(width)} km across`;
  };
  drawAround();
}

/** Return the columns of the rows to compare: a title each, and how a value is written. */
function comparedColumns() {
  const { comparable, features, place } = table;
  const others = leading.filter(({ name }) => name !== place?.latitude && name !== place?.longitude).slice(0, COMPARED);
  if (!comparable.length)
    return features
      .filter((feature) => others.includes(feature))
      .map(({ name, title, type }) => ({ column: name, title, write: (value) => written(value, type) }));
  const number = (value) => short(Number(value.toFixed(1)));
  return comparable.map(({ column, title, per, as }) => {
    const write = (value) => (value === null ? written(null) : (as === "display" ? amount : number)(value / per));
    return { column, title, write };
  });
}

/** Show why there is no answer, at the field with the problem; return whether no field has one. */
function refuse(problem) {
  if (!(problem instanceof Problem)) throw problem;
  const [name] = Object.keys(problem.fields);
  form.blame(problem.fields);
  showRefusal(name ? `${form.title(name)}: ${problem.fields[name]}` : problem.message);
  return !name;
}

/** Load the table and its picture; again for another version, which may have been trained on other data. */
async function load() {
  try {
    const [described, bytes] = await Promise.all([ask("table"), placed && !places ? askBytes("places") : null]);
    form.describe(described.features);
    if (!table) await begin(described);
    if (bytes) showPlaces(bytes);
    showInvitation();
    if (!placed && !chart.feature) await showChart();
    askAgain?.();
  } catch (problem) {
    refuse(problem);
  }
}

async function begin(described) {
  table = described;
  writeAs(table.display);
  byId("sliders").hidden = !table.features.every(({ type }) => type === "number");
  if (!table.comparable.length) await findLeading();
  const heads = comparedColumns().map(({ title }) => element("th", { scope: "col", textContent: title }));
  byId("comparable-heads").append(...heads);
}

async function findLeading() {
  const spread = ({ predicted }) => Math.max(...predicted) - Math.min(...predicted);
  const spreads = new Map((await curvesOf(form.read())).map((curve) => [curve.name, spread(curve)]));
  const moves = ({ name }) => spreads.get(name) ?? 0;
  leading = table.features.toSorted((a, b) => moves(b) - moves(a));
}

function showPlaces(bytes) {
  const landmarks = Object.entries(table.landmarks).map(([name, [north, east, zoom]]) => ({ name, north, east, zoom }));
  places = new Places(bytes, landmarks);
  map.show(places);
  byId("map").setAttribute("aria-label", `Map of ${count(places.count)} ${table.rows}, coloured by ${table.target}`);
  byId("lowest").textContent = amount(places.least);
  byId("highest").textContent = amount(places.most);
  showDistribution(places.values);
  tellDrawn(places.count);
  listLandmarks(landmarks);
  drawAround();
}

function listLandmarks(landmarks) {
  byId("landmarks").hidden = !landmarks.length;
  if (landmarks.length)
    suggest(landmarks.slice(0, SUGGESTED).map(({ name, north, east }) => [name, () => visitPlace(north, east)]));
  else suggestUsual(places.values, (number) => visitPlace(places.north[number], places.east[number]));
  const select = byId("landmark");
  const sorted = landmarks.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  select.append(...sorted.map(({ name }, i) => element("option", { textContent: name, value: i })));
  select.addEventListener("change", () => {
    const landmark = sorted[select.value];
    if (!landmark) return;
    map.goTo(landmark.north, landmark.east, LANDMARK_ZOOM);
    visitPlace(landmark.north, landmark.east);
  });
}

/** Show the chart, at first along the number or date that moves the prediction most. */
async function showChart() {
  if (!leading.length) await findLeading();
  const first = leading.find(({ scale }) => scale.length) ?? leading[0];
  const select = byId("axis");
  select.append(...table.features.map(({ name, title }) => element("option", { value: name, textContent: title })));
  select.value = first.name;
  select.addEventListener("change", () => showPoints().catch(refuse));
  const { y } = await showPoints();
  tellDrawn(y.length);
  showDistribution(y);
  suggestUsual(y, (number) => visit(`rows/points/${number}`));
}

/** Say how many rows are drawn, and among how many the similar ones are, if that is not all of them. */
function tellDrawn(number) {
  const { total, kept } = table;
  const drawn = number < total ? ` (${count(number)} of ${count(total)} are drawn)` : "";
  for (const node of document.querySelectorAll(".drawn")) node.textContent = drawn;
  if (!placed && kept < total) byId("lens-scale").textContent = `among ${count(kept)} of ${count(total)} ${table.rows}`;
}

async function showPoints() {
  const feature = table.features.find(({ name }) => name === byId("axis").value);
  const points = await ask(`rows/points?feature=${encodeURIComponent(feature.name)}`);
  chart.show(feature, points);
  byId("chart").setAttribute(
    "aria-label",
    `Chart of ${count(points.y.length)} ${table.rows}: ${table.target} by ${feature.title}`,
  );
  return points;
}

/** Suggest rows with a low, a usual and a high value of the target. */
function suggestUsual(values, onChoose) {
  const order = [...values.keys()].sort((a, b) => values[a] - values[b]);
  const shares = { "a low one": 0.1, "a usual one": 0.5, "a high one": 0.9 };
  suggest(
    Object.entries(shares).map(([name, share]) => {
      const number = order[Math.round(share * (order.length - 1))];
      return [`${name}: ${tick(values[number])}`, () => onChoose(number)];
    }),
  );
}

function suggest(suggestions) {
  byId("suggestions").replaceChildren(
    ...suggestions.map(([textContent, onclick]) => element("button", { type: "button", textContent, onclick })),
  );
}

byId("zoom-in").addEventListener("click", () => places && map.zoomBy(2));
byId("zoom-out").addEventListener("click", () => places && map.zoomBy(0.5));
byId("zoom-all").addEventListener("click", () => places && map.zoomOut());
new ResizeObserver(() => drawAround()).observe(byId("lens"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAround());

watchFiles();
watchSystem(load);
load();
