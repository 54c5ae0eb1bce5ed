// The system: asked every few seconds while somebody looks, shown in words, and never by colour alone.

import { ask } from "./api.js";
import { ago, announce, byId, count, dollars, element, setText } from "./text.js";

const EVERY = 3000; // milliseconds
const PATIENCE = 6000;
const WORDS = { up: "up", down: "down", starting: "starting", missing: "not installed", unknown: "not known" };
const TRIGGERS = { start: "the first training", user: "asked for by hand", drift: "begun by the drift monitor" };
const DRIFT = { drift: "bad", "no drift": "good", "check failed": "bad" };

let before = null; // the overview shown now
let silentSince = null;
let timer = 0;

/** Keep the section up to date; `onChange()` is called when another version serves, or the service answers again. */
export function watchSystem(onChange) {
  const look = async () => {
    clearTimeout(timer);
    const overview = await ask("overview", { signal: AbortSignal.timeout(PATIENCE) }).catch(() => null);
    if (overview) show(overview, onChange);
    else showSilence();
    if (!document.hidden) timer = setTimeout(look, EVERY);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : look()));
  look();
}

function show(overview, onChange) {
  const back = silentSince !== null;
  if (back) announce("The service answers again.");
  silentSince = null;
  byId("outage").hidden = true;
  byId("system").classList.remove("stale");
  setText("asked", `as of ${new Date(overview.now).toLocaleTimeString()}`);
  showServices(overview);
  showModel(overview);
  showLive(overview);
  showDrift(overview);
  showRetrainings(overview);
  const version = overview.model?.version;
  const promoted = before && version && version !== before.model?.version;
  if (promoted) announce(`Version ${version} serves now.`);
  if (promoted || (back && version)) onChange();
  before = overview;
}

function showSilence() {
  if (silentSince === null) silentSince = new Date();
  const outage = byId("outage");
  const text = `The service has not answered since ${silentSince.toLocaleTimeString()}. Asking again every few seconds.`;
  setText(outage, text);
  outage.hidden = false;
  byId("system").classList.add("stale");
  for (const item of byId("services").children) {
    if (item.id === "service-api") setState(item, "down", "does not answer this page");
    else if (item.dataset.state !== "missing") setState(item, "unknown", "only the service could tell");
  }
  setPulse("down", "The service does not answer");
}

function showServices({ services, model, model_state: state }) {
  for (const service of services) {
    const item = byId(`service-${service.name}`) ?? newService(service);
    const said = item.dataset.state;
    if (said && said !== "unknown" && said !== service.state)
      announce(`${service.title} is ${WORDS[service.state]}.`);
    setState(item, service.state, service.detail);
    if (service.state === "missing") item.querySelector("a").removeAttribute("href");
    else item.querySelector("a").href = addressOf(service);
  }
  const ill = services.filter(({ state }) => state === "down").map(({ title }) => title);
  const waiting = services.filter(({ state }) => state === "starting").map(({ title }) => title);
  if (ill.length) setPulse("down", `${ill.join(" and ")} ${ill.length > 1 ? "are" : "is"} down`);
  else if (!model) setPulse("starting", "No model yet");
  else if (waiting.length)
    setPulse("starting", `${waiting.join(" and ")} ${waiting.length > 1 ? "start" : "starts"}`);
  else setPulse("up", `Version ${model.version} serves`);
  setText("model-state", model ? "" : sentence(state));
}

function newService(service) {
  const title = element("a", { textContent: service.title });
  const state = element("span", { className: "state" });
  const dot = element("span", { className: "dot", ariaHidden: "true" });
  const head = element("div", { className: "service" }, dot, title, state);
  const item = element("li", { id: `service-${service.name}` }, head, element("p", { className: "note" }));
  byId("services").append(item);
  return item;
}

function setState(item, state, detail) {
  item.dataset.state = state;
  setText(item.querySelector(".state"), WORDS[state]);
  const note = item.querySelector(".note");
  if (note.dataset.detail === detail) return;
  note.dataset.detail = detail;
  // What stands between backticks is a command.
  note.replaceChildren(
    ...detail.split("`").map((part, i) => (i % 2 ? element("code", { textContent: part }) : part)),
  );
}

function setPulse(state, text) {
  byId("pulse").dataset.state = state;
  setText("pulse", text);
}

/** Return where a service is for this browser: under the name that the page has, or at its own address. */
function addressOf({ name, port, url }) {
  if (name === "api") return "docs";
  return url ?? `${location.protocol}//${location.hostname}:${port}/`;
}

function showModel({ model, services, now }) {
  byId("model").hidden = !model;
  if (!model) return;
  const mlflow = addressOf(services.find(({ name }) => name === "mlflow")).replace(/\/$/, "");
  const registered = model.source !== "dummy";
  const versions = `${mlflow}/#/models/${encodeURIComponent(model.name)}/versions`;
  link("model-version", `${model.name} ${model.version}`, registered && `${versions}/${model.version}`);
  setText("model-age", model.registered_at ? ago(model.registered_at, now) : "no");
  setText("model-family", model.family);
  const { test_rmse: rmse } = model;
  setText("model-error", rmse === null ? "not measured" : `${dollars(rmse)} (RMSE ${rmse.toFixed(3)} on test rows)`);
  setText("model-coverage", `holds ${Math.round(100 * model.coverage)} % of true values`);
  setText("model-engine", `${model.engine}, from the ${model.source}`);
  link("model-run", `run ${model.run_id.slice(0, 8)}`, registered && `${mlflow}/#/runs/${model.run_id}`);
  digest("model-data", model.data_md5, "MD5");
  digest("model-code", model.code_digest, "digest");
}

function link(id, text, href) {
  const anchor = byId(id);
  setText(anchor, text);
  if (href) anchor.href = href;
  else anchor.removeAttribute("href");
}

function digest(id, value, kind) {
  const shown = value ? `${value.slice(0, 12)} ${kind}` : "not recorded";
  if (byId(id).textContent === shown) return;
  const code = element("code", { textContent: value?.slice(0, 12), title: value });
  byId(id).replaceChildren(...(value ? [code, ` ${kind}`] : [shown]));
}

function showLive({ live, model, prediction_log: log, now }) {
  const minutes = live.per_minute;
  const hour = minutes.reduce((sum, number) => sum + number, 0);
  setText("per-minute", count(minutes.at(-1)));
  setText("per-hour", `${count(hour)} predictions`);
  const promised = model?.test_rmse ? `, ${model.test_rmse.toFixed(3)} in the test` : "";
  const error =
    live.rmse === null ? "no labels yet" : `RMSE ${live.rmse.toFixed(3)} of ${count(live.labels)} labels${promised}`;
  setText("live-error", error);
  setText("log", log);
  setText("up-since", `${new Date(live.started_at).toLocaleString()} (${ago(live.started_at, now)})`);
  const highest = Math.max(...minutes, 1);
  const bars = minutes.map((number, i) => {
    const height = number ? Math.max(1.5, (46 * number) / highest) : 0.75;
    return `M${4 * i + 0.5} 48v${-height}h3v${height}z`;
  });
  byId("hour").firstElementChild.setAttribute("d", bars.join(""));
  const said = `Predictions per minute in the last hour: ${count(hour)} in all, at most ${count(Math.max(...minutes))}`;
  byId("hour").setAttribute("aria-label", said);
}

function showDrift({ drift, now }) {
  const pill = byId("drift-status");
  setText(pill, drift?.retraining ? "retraining now" : (drift?.status ?? "not looked at yet"));
  pill.dataset.state = drift?.retraining ? "busy" : (DRIFT[drift?.status] ?? "unknown");
  setText("drift-age", drift?.checked_at ? ago(drift.checked_at, now) : "");
  setText("drift-summary", drift ? aboutDrift(drift) : "The monitor makes its first check within a minute.");
  byId("drift-link").hidden = !drift;
  byId("drift-report").setAttribute("href", drift ? "drift?format=html" : "#system");
}

/** Return what moved and what follows; the report itself goes into every figure. */
function aboutDrift({ status, columns, summary, says, waits_for: waits, retraining }) {
  if (status !== "drift") return sentence(says || summary);
  const what = columns.length ? `in ${list(columns.map((name) => name.toLowerCase()))}` : "as a whole";
  const moved = `The newest houses differ from those in training ${what}.`;
  return waits.length && !retraining ? `${moved} Before a retraining: ${list(waits)}.` : moved;
}

function showRetrainings({ retrainings, now }) {
  const said = retrainings.map(({ ended_at: ended }) => ago(ended, now)).join();
  if (!retrainings.length || byId("retrainings").dataset.said === said) return;
  byId("retrainings").dataset.said = said;
  const items = retrainings.map((entry) => {
    const version = entry.version ? ` version ${entry.version}` : "";
    const head = element(
      "p",
      {},
      element("b", { textContent: `${entry.outcome}${version}` }),
      ` ${ago(entry.ended_at, now)}`,
    );
    const why = [TRIGGERS[entry.trigger] ?? entry.trigger, entry.reason].filter(Boolean).join("; ");
    const item = element("li", {}, head, element("p", { className: "note", textContent: why, title: why }));
    item.dataset.outcome = entry.outcome;
    return item;
  });
  byId("retrainings").replaceChildren(...items);
}

function list(words) {
  return words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words.at(-1)}` : words[0];
}

function sentence(text) {
  return text && text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
