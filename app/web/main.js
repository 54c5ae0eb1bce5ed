// What happens on a click: the parts of the page and how they work together.

import { showAnswer, showComparable, showDistribution, showInvitation, showRefusal } from "./answer.js";
import { Problem, ask, askBytes } from "./api.js";
import { watchFiles } from "./files.js";
import { Form } from "./form.js";
import { MapPanel } from "./map.js";
import { drawLens } from "./picture.js";
import { Places } from "./places.js";
import { watchSystem } from "./system.js";
import { amount, announce, byId, count, element, writeAs } from "./text.js";

const LANDMARK_ZOOM = 7;
const SUGGESTED = 4;
let table = null; // the words and numbers of the table
let places = null;
let chosen = null; // the place whose numbers are in the form, until somebody changes them
let drawAround = () => {};
let question = null; // aborts the previous one, so that the last click wins
let askAgain = null; // repeats a question that the service could not answer

const form = new Form(byId("form"), byId("fields"), () => predict());
const map = new MapPanel(byId("map"), byId("readout"), (north, east) => visit(north, east));

/** Fill the form with the place nearest to a point, and predict. */
function visit(latitude, longitude) {
  return tryTo(async (signal) => {
    const place = await ask(`places/nearest?latitude=${latitude}&longitude=${longitude}`, { signal });
    form.fill(place.features);
    chosen = place;
    await answer(signal);
  });
}

/** Predict what is in the form. */
function predict() {
  return tryTo(answer);
}

/** Ask something; if the service fails, it is asked again later. */
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
  const untouched = chosen && Object.entries(chosen.features).every(([name, value]) => values[name] === value);
  const actual = untouched ? chosen.actual_value : undefined;
  const prediction = await ask("predict", { body: values, signal });
  form.blame({});
  showAnswer(prediction, actual, table, (name) => form.title(name));
  announce(
    `${amount(prediction[table.answer])}, between ${amount(prediction.interval.low)} and ` +
      `${amount(prediction.interval.high)}. ${prediction.warnings.length ? `${prediction.warnings.length} warnings.` : ""}`,
  );
  showAround(values, await ask("places/comparable", { body: values, signal }));
}

function showAround(values, comparable) {
  const pointOf = (features) => ({ north: features[table.place.latitude], east: features[table.place.longitude] });
  const point = pointOf(values);
  const others = comparable.map(({ features }) => pointOf(features));
  showComparable(comparable, table.comparable, (place) => {
    form.fill(place.features);
    chosen = place;
    predict();
  });
  map.mark(point, others);
  drawAround = () => {
    if (!places) return;
    const width = drawLens(byId("lens"), places, point, others);
    byId("lens-scale").textContent = `${width < 20 ? width.toFixed(1) : Math.round(width)} km across`;
  };
  drawAround();
}

/** Show why there is no answer, at the field with the problem; return whether no field has one. */
function refuse(problem) {
  if (!(problem instanceof Problem)) throw problem;
  const [name] = Object.keys(problem.fields);
  form.blame(problem.fields);
  showRefusal(name ? `${form.title(name)}: ${problem.fields[name]}` : problem.message);
  return !name;
}

/** Load the table and the map; again for another version, which may have been trained on other data. */
async function load() {
  try {
    const [described, bytes] = await Promise.all([ask("table"), places ? null : askBytes("places")]);
    form.describe(described.features);
    if (bytes) begin(described, bytes);
    showInvitation();
    askAgain?.();
  } catch (problem) {
    refuse(problem);
  }
}

function begin(described, bytes) {
  table = described;
  writeAs(table.display);
  const landmarks = Object.entries(table.landmarks).map(([name, [north, east, zoom]]) => ({ name, north, east, zoom }));
  places = new Places(bytes, landmarks);
  map.show(places);
  byId("map").setAttribute("aria-label", `Map of ${count(places.count)} ${table.rows}, coloured by ${table.target}`);
  byId("lowest").textContent = amount(0);
  byId("highest").textContent = amount(places.highest * places.valueStep);
  const heads = table.comparable.map(({ title }) => element("th", { scope: "col", textContent: title }));
  byId("comparable-heads").append(...heads);
  showDistribution(places);
  listLandmarks(landmarks);
  drawAround();
}

function listLandmarks(landmarks) {
  byId("suggestions").append(
    ...landmarks.slice(0, SUGGESTED).map(({ name, north, east }) => {
      const button = element("button", { type: "button", textContent: name });
      button.addEventListener("click", () => visit(north, east));
      return button;
    }),
  );
  const select = byId("landmark");
  const sorted = landmarks.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  select.append(...sorted.map(({ name }, i) => element("option", { textContent: name, value: i })));
  select.addEventListener("change", () => {
    const landmark = sorted[select.value];
    if (!landmark) return;
    map.goTo(landmark.north, landmark.east, LANDMARK_ZOOM);
    visit(landmark.north, landmark.east);
  });
}

byId("zoom-in").addEventListener("click", () => places && map.zoomBy(2));
byId("zoom-out").addEventListener("click", () => places && map.zoomBy(0.5));
byId("zoom-all").addEventListener("click", () => places && map.zoomOut());
new ResizeObserver(() => drawAround()).observe(byId("lens"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAround());

watchFiles();
watchSystem(load);
load();
