"use strict";

// Everything shown comes from the service; what it does not tell is not shown.
const NAMES = { mlflow: "MLflow", grafana: "Grafana", prometheus: "Prometheus" };

async function ask(path) {
  const answer = await fetch(path);
  return [answer.ok, await answer.json()];
}

function fact(name, value) {
  const term = document.createElement("dt");
  const text = document.createElement("dd");
  term.textContent = name;
  text.textContent = value;
  document.getElementById("facts").append(term, text);
}

async function showModel() {
  const state = document.getElementById("state");
  const [isReady, ready] = await ask("ready");
  state.textContent = isReady ? `Ready: ${ready.detail}.` : `Not ready: ${ready.detail}.`;
  document.getElementById("facts").replaceChildren();
  if (!isReady) return;
  const [, model] = await ask("model");
  fact("Version", `${model.version}, from the ${model.source}`);
  fact("Family", model.family);
  if (model.registered_at) fact("Registered", model.registered_at);
  for (const [name, value] of Object.entries(model.scores)) fact(name, value.toFixed(4));
  fact("Prediction log", ready.prediction_log);
}

async function showServices() {
  const [[, ports], [, health]] = await Promise.all([ask("links"), ask("health")]);
  for (const [service, port] of Object.entries(ports)) {
    const seen = health.services[service];
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = `${location.protocol}//${location.hostname}:${port}/`;
    link.textContent = NAMES[service];
    item.append(link);
    if (seen) item.append(seen.state === "up" ? " (up)" : ` (${seen.state}${seen.detail ? `: ${seen.detail}` : ""})`);
    document.getElementById("links").append(item);
  }
}

async function show() {
  await showModel();
  setTimeout(() => show().catch(unreachable), 10000);
}

function unreachable() {
  document.getElementById("state").textContent = "The service does not answer.";
  setTimeout(() => show().catch(unreachable), 10000);
}

show().catch(unreachable);
showServices().catch(() => {});
