// The state of the system: asked every few seconds while the page is visible, shown in words and not only in colour.

import { ask, reachable } from "./api.js";
import { ago, amount, announce, byId, change, count, element, percent, precise, sentence, setText } from "./text.js";

const EVERY = 3000; // milliseconds
const PATIENCE = 6000;
const STALE = 20_000; // the watchdog looks every two seconds, and waits three for an answer
const TITLES = {
  api: "Prediction service",
  mlflow: "MLflow",
  prometheus: "Prometheus",
  alertmanager: "Alertmanager",
  grafana: "Grafana",
  "drift-monitor": "Drift monitor",
};
const WORDS = { up: "up", down: "down", starting: "starting", missing: "not installed", unknown: "not known" };
const TRIGGERS = {
  start: "first training",
  user: "started by hand",
  drift: "started by the drift monitor",
  schedule: "started by the schedule",
};
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
  overview.services = servicesOf(overview);
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
  silentSince ??= new Date();
  const since = silentSince.toLocaleTimeString();
  setText("outage", `The service has not answered since ${since}. Asking again every few seconds.`);
  byId("outage").hidden = false;
  byId("system").classList.add("stale");
  for (const item of byId("services").children) {
    if (item.id === "service-api") setState(item, "down", "does not answer this page");
    else if (item.dataset.state !== "missing") setState(item, "unknown", "only the service could tell");
  }
  setPulse("down", "The service does not answer");
}

function showServices({ model, ready, services }) {
  for (const service of services) {
    const item = byId(`service-${service.name}`) ?? newService(service);
    const said = item.dataset.state;
    if (said && said !== "unknown" && said !== service.state)
      announce(`${service.title} is ${WORDS[service.state]}.`);
    setState(item, service.state, service.detail);
    link(item.querySelector("a"), service.title, service.state !== "missing" && addressOf(service));
  }
  const titles = (wanted) => services.filter(({ state }) => state === wanted).map(({ title }) => title);
  const [down, starting] = [titles("down"), titles("starting")];
  if (down.length) setPulse("down", `${list(down)} ${down.length > 1 ? "are" : "is"} down`);
  else if (!model) setPulse("starting", "No model yet");
  else if (ready.status !== "ready") setPulse("down", "Predictions cannot be stored, so none are answered");
  else if (ready.matches_registry === false)
    setPulse("starting", `Version ${model.version} serves, which the registry's alias does not name`);
  else if (starting.length) setPulse("starting", `${list(starting)} ${starting.length > 1 ? "start" : "starts"}`);
  else setPulse("up", `Version ${model.version} serves`);
  const well = model && ready.status === "ready" && ready.matches_registry !== false;
  setText("model-state", well ? "" : sentence(ready.detail));
}

/** Return the services in the order of `TITLES`: this one, which answers, and the others as the watchdog saw them. */
function servicesOf({ health, now }) {
  const silent = health.checked_at ? new Date(now) - new Date(health.checked_at) : 0;
  const detail = silent > STALE && `the watchdog last checked ${Math.round(silent / 1000)} s ago`;
  const seen = { ...health.services, api: { state: "up", detail: "answers" } };
  return Object.entries(TITLES)
    .filter(([name]) => seen[name])
    .map(([name, title]) => {
      const unknown = detail && name !== "api" && seen[name].state !== "missing";
      return { ...seen[name], name, title, ...(unknown && { state: "unknown", detail }) };
    });
}

function newService(service) {
  const state = element("span", { className: "state" });
  const dot = element("span", { className: "dot", ariaHidden: "true" });
  const head = element("div", { className: "row service" }, dot, element("a"), state);
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
  // Text between backticks is a command.
  note.replaceChildren(
    ...detail.split("`").map((part, i) => (i % 2 ? element("code", { textContent: part }) : part)),
  );
}

function setPulse(state, text) {
  byId("pulse").dataset.state = state;
  setText("pulse", text);
}

/** Return the address of a service for this browser, null of one that has no pages. */
function addressOf({ name, address }) {
  if (name === "api") return "docs";
  return address ? reachable(address) : null;
}

function showModel({ model, services, now }) {
  byId("model").hidden = !model;
  if (!model) return;
  const server = services.find(({ name }) => name === "mlflow");
  const mlflow = server && addressOf(server).replace(/\/$/, "");
  const registered = mlflow && model.source !== "dummy";
  const versions = `${mlflow}/#/models/${encodeURIComponent(model.name)}/versions`;
  link(byId("model-version"), `${model.name} ${model.version}`, registered && `${versions}/${model.version}`);
  setText("model-age", model.registered_at ? ago(model.registered_at, now) : "no");
  setText("model-family", model.family);
  const { test_rmse: rmse } = model.scores;
  setText("model-error", rmse === undefined ? "not measured" : `${amount(rmse)} (RMSE ${precise(rmse)} on test rows)`);
  setText("model-coverage", `contains ${Math.round(100 * model.interval_coverage)} % of true values`);
  setText("model-engine", `${model.engine}, from the ${model.source}`);
  link(byId("model-run"), `run ${model.run_id.slice(0, 8)}`, registered && `${mlflow}/#/runs/${model.run_id}`);
  digest("model-data", model.data_md5, "MD5");
  digest("model-code", model.code_digest, "digest");
  showLookedInto(model);
}

/** Show what the model looks at and where it errs: anew for another version, and when it is known how to write. */
function showLookedInto({ version, importance, error_by_region: regions }) {
  const card = byId("looked-into");
  const shown = `${version}: ${amount(1)}`;
  if (card.dataset.shown === shown) return;
  card.dataset.shown = shown;
  card.hidden = !importance.length;
  const most = importance[0]?.rmse_rise || 1;
  byId("importance").replaceChildren(
    ...importance.map(({ title, rmse_rise: rise }) => {
      const bar = element("span", { className: "rise" });
      bar.style.setProperty("--size", `${Math.max(0, (100 * rise) / most)}%`);
      return element(
        "li",
        {},
        element("span", { className: "name", textContent: title }),
        element("span", { className: "bar from-left", ariaHidden: "true" }, bar),
        element("b", { textContent: change(rise) }),
      );
    }),
  );
  byId("regions").hidden = !regions.length;
  byId("regions-errors").replaceChildren(
    ...regions.map(({ name, rows, rmse, coverage }) => {
      const cells = [name, count(rows), amount(rmse), percent(coverage)];
      return element("tr", {}, ...cells.map((textContent) => element("td", { textContent })));
    }),
  );
}

function link(anchor, text, href) {
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

function showLive({ live, model, ready, now }) {
  const minutes = live.per_minute;
  const hour = minutes.reduce((sum, number) => sum + number, 0);
  setText("per-minute", count(minutes.at(-1)));
  setText("per-hour", `${count(hour)} predictions`);
  const promised = model?.scores.test_rmse ? `, ${precise(model.scores.test_rmse)} on test rows` : "";
  const error =
    live.rmse === null ? "no labels yet" : `RMSE ${precise(live.rmse)} from ${count(live.labels)} labels${promised}`;
  setText("live-error", error);
  setText("log", ready.prediction_log);
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
  const monitor = drift?.monitor;
  const checked = monitor?.looked_at ?? drift?.checked_at;
  setText(pill, monitor?.retraining ? "retraining now" : (drift?.status ?? "not checked yet"));
  pill.dataset.state = monitor?.retraining ? "busy" : (DRIFT[drift?.status] ?? "unknown");
  setText("drift-age", checked ? ago(checked, now) : "");
  setText("drift-summary", drift ? aboutDrift(drift) : "The monitor makes its first check within a minute.");
  byId("drift-link").hidden = !drift;
  byId("drift-report").setAttribute("href", drift ? "drift?format=html" : "#system");
}

/** Return what moved and what follows; the report has the figures. */
function aboutDrift({ status, columns, summary, monitor }) {
  if (status !== "drift") return sentence(monitor?.says || summary);
  const what = columns.length ? `in ${list(columns.map((name) => name.toLowerCase()))}` : "as a whole";
  const moved = `Recent requests differ from the training data ${what}.`;
  const waits = monitor?.waits_for ?? [];
  return waits.length && !monitor.retraining ? `${moved} Before a retraining: ${list(waits)}.` : moved;
}

function showRetrainings({ retrainings, now }) {
  const said = retrainings.map(({ ended_at: ended }) => ago(ended, now)).join();
  if (!retrainings.length || byId("retrainings").dataset.said === said) return;
  byId("retrainings").dataset.said = said;
  const items = retrainings.map((entry) => {
    const version = entry.version ? ` version ${entry.version}` : "";
    const outcome = element("b", { textContent: `${entry.outcome}${version}` });
    const head = element("p", {}, outcome, ` ${ago(entry.ended_at, now)}`);
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
