// What happens when somebody clicks: the parts of the page and how they speak to each other.

import { showAnswer, showComparable, showDistribution, showInvitation, showRefusal } from "./answer.js";
import { Problem, ask, askBytes } from "./api.js";
import { CITIES } from "./cities.js";
import { watchFiles } from "./files.js";
import { Form } from "./form.js";
import { MapPanel } from "./map.js";
import { drawLens } from "./picture.js";
import { Places } from "./places.js";
import { watchSystem } from "./system.js";
import { announce, byId, dollars, element } from "./text.js";

const CITY_ZOOM = 7;
const SUGGESTED = ["San Francisco", "Los Angeles", "Fresno", "Bishop"];
let places = null;
let chosen = null; // the block group whose numbers are in the form, until somebody changes them
let drawAround = () => {};
let question = null; // aborts the one before, so that the last click wins
let askAgain = null; // what the service could not be asked

const form = new Form(byId("form"), byId("fields"), () => predict());
const map = new MapPanel(byId("map"), byId("readout"), (north, east) => visit(north, east));

/** Fill the form with the block group nearest to a point, and predict. */
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

/** Ask something; where the service is to blame that there is no answer, it is asked again later. */
async function tryTo(work) {
  question?.abort();
  question = new AbortController();
  try {
    await work(question.signal);
    askAgain = null;
  } catch (problem) {
    if (problem.name === "AbortError") return;
    const isService = refuse(problem);
    askAgain = isService ? () => tryTo(work) : null;
  }
}

async function answer(signal) {
  const values = form.read();
  const untouched = chosen && Object.entries(chosen.features).every(([name, value]) => values[name] === value);
  const actual = untouched ? chosen.actual_value : undefined;
  const prediction = await ask("predict", { body: values, signal });
  form.blame({});
  showAnswer(prediction, actual, (name) => form.title(name));
  announce(
    `${dollars(prediction.predicted_median_house_value)}, between ${dollars(prediction.interval.low)} and ` +
      `${dollars(prediction.interval.high)}. ${prediction.warnings.length ? `${prediction.warnings.length} warnings.` : ""}`,
  );
  showAround(values, await ask("places/comparable", { body: values, signal }));
}

function showAround(values, comparable) {
  const point = { north: values.Latitude, east: values.Longitude };
  const others = comparable.map(({ features }) => ({ north: features.Latitude, east: features.Longitude }));
  showComparable(comparable, (place) => {
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

/** Show why there is no answer, at the field that is to blame; return whether none is. */
function refuse(problem) {
  if (!(problem instanceof Problem)) throw problem;
  const [name] = Object.keys(problem.fields);
  form.blame(problem.fields);
  showRefusal(name ? `${form.title(name)}: ${problem.fields[name]}` : problem.message);
  return !name;
}

/** Get what the page is made of; again when another version serves, for what it was trained on. */
async function load() {
  try {
    const [features, bytes] = await Promise.all([ask("features"), places ? null : askBytes("places")]);
    form.describe(features);
    if (bytes) {
      places = new Places(bytes);
      map.show(places);
      showDistribution(places.shades, places.valueStep);
      drawAround();
    }
    showInvitation();
    askAgain?.();
  } catch (problem) {
    refuse(problem);
  }
}

function listCities() {
  const suggested = CITIES.filter(([name]) => SUGGESTED.includes(name));
  byId("suggestions").append(
    ...suggested.map(([name, north, east]) => {
      const button = element("button", { type: "button", textContent: name });
      button.addEventListener("click", () => visit(north, east));
      return button;
    }),
  );
  const select = byId("city");
  const sorted = CITIES.map(([name, north, east]) => ({ name, north, east })).sort((a, b) =>
    a.name < b.name ? -1 : 1,
  );
  select.append(...sorted.map(({ name }, i) => element("option", { textContent: name, value: i })));
  select.addEventListener("change", () => {
    const city = sorted[select.value];
    if (!city) return;
    if (places) map.goTo(city.north, city.east, CITY_ZOOM);
    visit(city.north, city.east);
  });
}

byId("zoom-in").addEventListener("click", () => places && map.zoomBy(2));
byId("zoom-out").addEventListener("click", () => places && map.zoomBy(0.5));
byId("zoom-all").addEventListener("click", () => places && map.zoomOut());
new ResizeObserver(() => drawAround()).observe(byId("lens"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAround());

listCities();
watchFiles();
watchSystem(load);
load();
