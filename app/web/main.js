// What happens when somebody clicks: the parts of the page and how they speak to each other.

import { showAnswer, showComparable, showDistribution, showRefusal } from "./answer.js";
import { ask, askBytes } from "./api.js";
import { CITIES } from "./cities.js";
import { watchFiles } from "./files.js";
import { Form } from "./form.js";
import { MapPanel, Places, drawLens } from "./map.js";
import { watchSystem } from "./system.js";
import { announce, byId, dollars, element } from "./text.js";

const CITY_ZOOM = 7;
const SUGGESTED = ["San Francisco", "Los Angeles", "Fresno", "Bishop"];
let places = null;
let chosen = null; // the block group whose numbers are in the form, until somebody changes them
let unanswered = false; // because of the service, not of the numbers
let drawAround = () => {};
let question = null; // aborts the one before, so that the last click wins

const form = new Form(byId("form"), byId("fields"), () => predict());
const map = new MapPanel(byId("map"), byId("readout"), (north, east) => visit(north, east));

/** Fill the form with the block group nearest to a point, and predict. */
async function visit(latitude, longitude) {
  const signal = begin();
  try {
    const place = await ask(`places/nearest?latitude=${latitude}&longitude=${longitude}`, { signal });
    form.fill(place.features);
    chosen = place;
    await answer(signal);
  } catch (problem) {
    refuse(problem);
  }
}

/** Predict what is in the form. */
async function predict() {
  const signal = begin();
  try {
    await answer(signal);
  } catch (problem) {
    refuse(problem);
  }
}

async function answer(signal) {
  const values = form.read();
  const untouched = chosen && Object.entries(chosen.features).every(([name, value]) => values[name] === value);
  const actual = untouched ? chosen.actual_value : undefined;
  const comparable = ask("places/comparable", { body: values, signal });
  comparable.catch(() => {}); // the prediction says the same about wrong numbers
  const prediction = await ask("predict", { body: values, signal });
  unanswered = false;
  form.blame({});
  showAnswer(prediction, actual, (name) => form.title(name));
  announce(
    `${dollars(prediction.predicted_median_house_value)}, between ${dollars(prediction.interval.low)} and ` +
      `${dollars(prediction.interval.high)}. ${prediction.warnings.length ? `${prediction.warnings.length} warnings.` : ""}`,
  );
  showAround(values, await comparable);
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

function begin() {
  question?.abort();
  question = new AbortController();
  return question.signal;
}

function refuse(problem) {
  if (problem.name === "AbortError") return;
  const [name] = Object.keys(problem.fields);
  unanswered = !name;
  form.blame(problem.fields);
  const message = name ? `${form.title(name)}: ${problem.fields[name]}` : problem.message;
  showRefusal(message);
}

/** Ask what the version that serves was trained on; and ask again what it could not be asked before. */
async function describe() {
  form.describe(await ask("features"));
  if (unanswered) predict();
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
watchSystem(() => describe().catch(refuse));
describe().catch(refuse);
askBytes("places")
  .then((bytes) => {
    places = new Places(bytes);
    map.show(places);
    showDistribution(places.shades, places.valueStep);
    drawAround();
  })
  .catch(refuse);
