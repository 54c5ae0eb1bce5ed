// The page of versions: a column for each, so that they can be compared. Texts of the registry are set as text only.

import { Problem, ask, reachable } from "./api.js";
import { ago, amount, byId, count, element, percent, precise, sentence, setText, writeAs } from "./text.js";

const LONG = 170; // characters of a reason: of a longer one the beginning is shown until somebody opens it
const SHOWN = 130;

// Title, what is shown of a version, and what is said where there is nothing to show. A row of "no" or "never" alone
// is left out.
const ROWS = [
  ["Registered", ({ registered_at: at }, now) => at && [time(at, now)]],
  ["Family", ({ family }) => family && [family]],
  ["Trained on", trainedOn],
  ["Test error", testError],
  ["Live error", ({ live }) => live && error(live.rmse, `from ${labels(live.labels)}`), "no labels"],
  ["In range", ({ live }) => live && [percent(live.coverage), note(`of ${labels(live.labels)}`)], "no labels"],
  ["In the shadow", ({ shadow }, now) => shadow.length && [list(shadow.map((one) => inShadow(one, now)))], "never"],
  ["The gate", theGate],
  ["Taken back", takenBack, "no"],
  ["History", whatHappened, "nothing yet"],
  ["Run", ({ run_id: run }) => run && [code(run, 8)]],
  ["Code", madeBy],
];
const LEFT_OUT = ["no", "never"];

async function show() {
  const asked = new URLSearchParams(location.search);
  asked.set("format", "json");
  const [found, table] = await Promise.all([
    ask(`versions?${asked}`),
    ask("table").catch(() => null), // without it, values are written as numbers
  ]);
  if (table) writeAs(table.display);
  const { versions, asked_at: now, problem } = found;
  setText("asked", `as of ${new Date(now).toLocaleTimeString()}`);
  byId("missing").hidden = !problem;
  setText("missing", sentence(problem ?? ""));
  byId("none").hidden = versions.length > 0;
  byId("compared").hidden = !versions.length;
  byId("heads").replaceChildren(byId("heads").firstElementChild, ...versions.map((version) => head(version, found)));
  const rows = ROWS.map(([title, write, none = "not known"]) => [title, versions.map((one) => write(one, now)), none]);
  byId("rows").replaceChildren(
    ...rows
      .filter(([, cells, none]) => !LEFT_OUT.includes(none) || cells.some(Boolean))
      .map(([title, cells, none]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row", textContent: title }),
          ...cells.map((parts) => element("td", {}, ...(parts || [soft(none)]))),
        ),
      ),
  );
}

function head({ version, aliases, serves, link }, { alias }) {
  const name = link
    ? element("a", { href: reachable(link), textContent: `Version ${version}` })
    : `Version ${version}`;
  const pills = aliases.map((one) => pill(one, one === alias ? "good" : "busy"));
  if (serves && !aliases.includes(alias)) pills.push(pill("serves", "good"));
  return element("th", { scope: "col" }, name, " ", ...pills);
}

function trainedOn({ data_md5: md5, label_batches: batches, trained_until: until, revocations }) {
  if (!md5 && !batches) return null;
  const more = batches ? ` and ${count(batches)} ${plural(batches, "batch", "batches")} of labels` : "";
  const parts = [`the table${more}`];
  if (until) parts.push(note("of requests until ", moment(until)));
  if (revocations) parts.push(note(`without ${count(revocations)} ${plural(revocations, "revocation")} of labels`));
  if (md5) parts.push(note("data ", code(md5, 12)));
  return parts;
}

function testError({ scores }) {
  const { test_rmse: rmse, test_mae: mae, test_r2: r2 } = scores;
  if (rmse === undefined) return null;
  const parts = error(rmse);
  if (mae !== undefined) parts.push(note(`mean absolute error ${amount(mae)}`));
  if (r2 !== undefined) parts.push(note(`R² ${r2.toFixed(3)}`));
  return parts;
}

function inShadow({ began_at: began, ended_at: ended, outcome, reason, problem, scored, live, answered }, now) {
  const parts = [ended ? element("p", {}, bold(outcome), " ", time(ended, now)) : bold("in it now")];
  parts.push(note(ended ? "in it since " : "since ", moment(began)));
  if (live && answered)
    parts.push(
      element("p", {}, bold(amount(live.rmse)), ` against ${amount(answered.rmse)} of what was answered`),
      note(
        `RMSE ${precise(live.rmse)} and ${precise(answered.rmse)}; ` +
          `${percent(live.coverage)} and ${percent(answered.coverage)} in range, on the same ${labels(live.labels)}`,
      ),
    );
  parts.push(note(scored ? `${count(scored)} requests scored` : "no request scored"));
  if (problem) parts.push(...words(problem));
  if (reason) parts.push(...words(reason));
  return parts;
}

function theGate({ gate }) {
  if (!gate) return null;
  const said = pill(gate.gate);
  said.dataset.outcome = gate.gate === "rejected" ? "failed" : gate.gate;
  const decided = decidedBy(gate);
  const against = gate.champion_version ? `against version ${gate.champion_version}` : "";
  const parts = [said, note([decided, against].filter(Boolean).join(", ")), ...words(gate.reason)];
  if (gate.promoted_by) parts.push(...words(`promoted by ${gate.promoted_by}`));
  return parts;
}

function decidedBy({ decided_by: what, labels: number }) {
  if (what === "labels") return `by ${labels(number)}`;
  if (what === "shadow") return number ? `by ${labels(number)} in the shadow` : "in the shadow";
  return what ? `by ${what}` : "";
}

function takenBack({ rolled_back: rolled, rejected }) {
  const parts = [];
  if (rolled !== null) parts.push(bold("rolled back"), ...words(rolled));
  if (rejected !== null) parts.push(bold("rejected"), ...words(rejected));
  return parts.length ? parts : null;
}

function whatHappened({ history: events, gate }, now) {
  if (!events.length) return null;
  const items = events.map(({ at, event, detail }) => [
    element("p", {}, bold(event === "rolled back" ? "rolled back to" : event), " ", time(at, now)),
    ...(detail && detail !== gate?.reason ? words(detail) : []), // not again what stands above
  ]);
  return [list(items)];
}

function madeBy({ git_commit: commit, code_digest: digest }) {
  const parts = [];
  if (commit) parts.push(note("commit ", code(commit, 12)));
  if (digest) parts.push(note("digest ", code(digest, 12)));
  return parts.length ? parts : null;
}

function error(rmse, more = "") {
  return [bold(amount(rmse)), note(`RMSE ${precise(rmse)} ${more}`.trim())];
}

/** Return a reason; a long one can be opened. */
function words(text) {
  if (!text) return [];
  if (text.length <= LONG) return [note(text)];
  const begins = `${text.slice(0, SHOWN).replace(/\s+\S*$/, "")}…`;
  const summary = element(
    "summary",
    {},
    element("span", { className: "closed", textContent: begins }),
    element("span", { className: "opened", textContent: "Less" }),
  );
  return [element("details", { className: "note" }, summary, element("p", { textContent: text }))];
}

function time(at, now) {
  return element("time", { dateTime: at, title: new Date(at).toLocaleString(), textContent: ago(at, now) });
}

function moment(at) {
  return element("time", { dateTime: at, textContent: new Date(at).toLocaleString() });
}

function code(value, length) {
  return element("code", { textContent: value.slice(0, length), title: value });
}

function labels(number) {
  return `${count(number)} ${plural(number, "label")}`;
}

function plural(number, one, many = `${one}s`) {
  return number === 1 ? one : many;
}

function pill(textContent, state) {
  const made = element("span", { className: "pill note", textContent });
  if (state) made.dataset.state = state;
  return made;
}

function list(items) {
  return element("ul", {}, ...items.map((parts) => element("li", {}, ...parts)));
}

const bold = (textContent) => element("b", { textContent });
const soft = (textContent) => element("span", { className: "soft", textContent });
const note = (...parts) => element("p", { className: "note" }, ...parts);

show().catch((problem) => {
  if (!(problem instanceof Problem)) throw problem;
  setText("asked", "");
  setText("refusal", problem.message);
  byId("refusal").hidden = false;
});
