// Send a file with a progress bar, and show the first rows of the scored file that comes back.

import { askBytes, problemOf } from "./api.js";
import { byId, count, element } from "./text.js";

const TYPES = { csv: "text/csv", parquet: "application/vnd.apache.parquet" };
const PREVIEW_ROWS = 8;
const PREVIEW_BYTES = 65_536;
const SHOWN_PROBLEMS = 8;
const ADDED = ["low", "high", "model_version", "prediction_id"]; // after the value, at the end of every answer

let request = null;
let address = "";

/** Take files that are dropped or chosen. */
export function watchFiles() {
  const drop = byId("drop");
  byId("choose").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // so that the same file can be chosen again
    if (file) score(file);
  });
  byId("example").addEventListener("click", () =>
    askBytes("rows/example.csv")
      .then((bytes) => score(new File([bytes], "example.csv")))
      .catch((problem) => fail(problem.message)),
  );
  let inside = 0;
  document.addEventListener("dragenter", () => inside++ || drop.classList.add("ready"));
  document.addEventListener("dragleave", () => --inside || drop.classList.remove("ready"));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    drop.classList.remove("ready");
    const [file] = event.dataTransfer.files;
    if (file) score(file);
  });
}

async function score(file) {
  request?.abort();
  clear();
  const given = await kindOf(file);
  if (!given) return fail(`${file.name} is neither CSV nor Parquet.`);
  const wanted = document.querySelector('input[name="kind"]:checked').value;
  say(`Sending ${file.name} (${size(file.size)})…`);
  byId("progress").hidden = false;
  byId("progress").value = 0;
  // fetch() does not tell how much has been sent
  request = new XMLHttpRequest();
  request.open("POST", "predict/batch");
  request.setRequestHeader("Content-Type", TYPES[given]);
  request.setRequestHeader("Accept", TYPES[wanted]);
  request.responseType = "blob";
  request.upload.onprogress = ({ loaded, total }) => (byId("progress").value = total ? loaded / total : 0);
  request.upload.onload = () => {
    byId("progress").removeAttribute("value");
    say(`Predicting ${file.name}…`);
  };
  request.onprogress = ({ loaded }) => loaded && say(`Predicting ${file.name}: ${size(loaded)} have come back…`);
  request.onerror = () =>
    fail("The answer ended early: the service stopped, or the file could not be read. Send it again.");
  request.onload = ({ target }) => finish(file, wanted, target);
  request.send(file);
}

async function finish(file, kind, { status, response }) {
  if (status !== 200) {
    const problem = problemOf(status, await response.text());
    return fail(
      problem.lines.length > 1 ? `${file.name} was not scored: ${problems(problem.lines.length)}.` : problem.message,
      problem.lines,
    );
  }
  byId("progress").hidden = true;
  const name = `${file.name.replace(/\.\w+$/, "")}-scored.${kind}`;
  address = URL.createObjectURL(response);
  byId("download").href = address;
  byId("download").download = name;
  byId("download").textContent = `Download ${name} (${size(response.size)})`;
  byId("download-line").hidden = false;
  if (kind === "csv") {
    const text = await response.slice(0, PREVIEW_BYTES).text();
    const rows = parse(text, PREVIEW_ROWS + 1);
    preview(rows);
    say(
      response.size <= PREVIEW_BYTES
        ? `Done: ${count(parse(text, Infinity).length - 1)} rows.`
        : `Done. The first ${rows.length - 1} rows:`,
    );
  } else {
    say("Done. For a preview choose CSV.");
  }
}

function preview([header, ...rows]) {
  const value = header[header.length - ADDED.length - 1];
  const first = [value, "low", "high"];
  const order = [...first, ...header.filter((name) => !first.includes(name) && name !== "prediction_id")];
  const columns = order.map((name) => header.indexOf(name)).filter((place) => place >= 0);
  const heads = columns.map((place) =>
    element("th", { scope: "col", textContent: header[place].replaceAll("_", " ") }),
  );
  const body = rows.map((row) =>
    element("tr", {}, ...columns.map((place) => element("td", { textContent: brief(row[place] ?? "") }))),
  );
  byId("preview")
    .querySelector("table")
    .replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
  byId("preview").hidden = false;
}

/** Return the first lines of a CSV text as lists of cells; a quoted cell may hold commas and line ends. */
function parse(text, lines) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === ",") continue;
    if (rows.length === lines || end === "") break;
    rows.push([]);
  }
  return rows.filter((row) => row.length > 1);
}

async function kindOf(file) {
  const start = await file.slice(0, 4).text();
  if (start === "PAR1") return "parquet";
  return /\.(csv|txt)$/i.test(file.name) || file.type === TYPES.csv ? "csv" : null;
}

function clear() {
  URL.revokeObjectURL(address);
  for (const id of ["download-line", "preview", "file-problems", "progress"]) byId(id).hidden = true;
  byId("file-state").classList.remove("refusal");
}

function fail(message, lines = []) {
  clear();
  say(message);
  byId("file-state").classList.add("refusal");
  if (lines.length < 2) return;
  const shown = lines.slice(0, SHOWN_PROBLEMS).map((line) => element("li", { textContent: line }));
  if (lines.length > SHOWN_PROBLEMS)
    shown.push(element("li", { textContent: `and ${problems(lines.length - SHOWN_PROBLEMS)} more` }));
  byId("file-problems").replaceChildren(...shown);
  byId("file-problems").hidden = false;
}

function say(text) {
  byId("file-state").textContent = text;
}

function problems(number) {
  return `${number} problem${number === 1 ? "" : "s"}`;
}

/** Shorten a number with a decimal point; anything else may be a name, as 007 is. */
function brief(cell) {
  return /^-?\d*\.\d+(e[-+]?\d+)?$/i.test(cell) ? String(Number(Number(cell).toPrecision(6))) : cell;
}

function size(bytes) {
  if (bytes < 10_000) return `${count(bytes)} bytes`;
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
