// Questions to the service. Addresses are relative, so that the page works under any host name and path.

import { sentence } from "./text.js";

/** What went wrong, in words; `fields` has a message for each field with a problem. */
export class Problem extends Error {
  constructor(message, fields = {}, lines = []) {
    super(message);
    this.fields = fields;
    this.lines = lines;
  }
}

/** Return the JSON answer of GET, or of POST when there is a body; throws a Problem. */
export async function ask(path, { body, signal } = {}) {
  const answer = await request(path, {
    signal,
    ...(body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }),
  });
  return answer.json();
}

/** Return the bytes behind an address. */
export async function askBytes(path) {
  return (await request(path, {})).arrayBuffer();
}

async function request(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted && error.name === "AbortError") throw error;
    throw new Problem("The service does not answer.");
  }
  if (!answer.ok) throw problemOf(answer.status, await answer.text());
  return answer;
}

/** Return an error answer as a Problem. */
export function problemOf(status, text) {
  let detail;
  try {
    detail = JSON.parse(text).detail;
  } catch {
    return new Problem(`The service answered ${status}.`);
  }
  if (!Array.isArray(detail)) return new Problem(sentence(String(detail)));
  const fields = {};
  const lines = [];
  for (const { loc, msg, input } of detail) {
    const where = loc.filter((part) => part !== "body");
    if (where.length === 1) fields[where[0]] ??= msg;
    const value = input === undefined || input === null || typeof input === "object" ? "" : ` (it is ${input})`;
    lines.push(where.length ? `${where.join(", ")}: ${msg}${value}` : sentence(msg));
  }
  return new Problem(lines[0] ?? `The service answered ${status}.`, fields, lines);
}

/** Return an address for this browser: a host without a dot is on the machine that this page is from. */
export function reachable(address) {
  const url = new URL(address);
  if (!url.hostname.includes(".") || url.hostname === "127.0.0.1") url.hostname = location.hostname;
  return url.href;
}
