// How numbers and times are written, and small helpers for elements.

const NUMBER = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 });
let target = NUMBER;
export const DAY = 86_400_000; // milliseconds
const COMPACT = new Intl.NumberFormat("en-US", { notation: "compact" });
let display = { factor: 1, round_to: 0.01, prefix: "", suffix: "" };

/** Set how values of the target are written: the table's `display`. */
export function writeAs(given) {
  display = given;
  const digits = Math.max(2, Math.ceil(-Math.log10(given.round_to)));
  target = new Intl.NumberFormat("en-US", { maximumFractionDigits: Math.min(20, digits) });
}

/** A value of the target as a person reads it: "$452,600". */
export function amount(value) {
  const { factor, round_to: step, prefix, suffix } = display;
  return `${prefix}${target.format(Math.round((value * factor) / step) * step)}${suffix}`;
}

/** How much is added or taken away: "+$61,000", "−$4,000". */
export function change(value) {
  return `${value < 0 ? "−" : "+"}${amount(Math.abs(value))}`;
}

/** Two of them: "$400,000 to $452,600", "12 to 15 years". */
export function amounts(low, high) {
  const { length } = wordBehind();
  const text = amount(low);
  return `${text.slice(0, text.length - length)} to ${amount(high)}`;
}

/** The same in short, for an axis: "$400K". A word is left out. */
export function tick(value) {
  const { factor, prefix, suffix } = display;
  return `${prefix}${COMPACT.format(value * factor)}${wordBehind() ? "" : suffix}`;
}

function wordBehind() {
  return display.suffix.startsWith(" ") ? display.suffix : "";
}

export function count(number) {
  return NUMBER.format(number);
}

/** A number with as many digits as a person wants to see: 0.0123, 6.984, 35682. */
export function short(number) {
  return String(Math.abs(number) >= 100 ? Math.round(number * 100) / 100 : Number(number.toPrecision(4)));
}

/** A value of a feature in words. */
export function written(value, type) {
  if (value === null) return "missing";
  if (type === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? short(value) : type === "datetime" ? value.replace("T", " ") : value;
}

/** The days from 1970 to a date in ISO 8601; without an offset it is in UTC. */
export function daysOf(text) {
  const inUtc = text.includes("T") && !/(Z|[+-]\d\d:?\d\d)$/.test(text);
  return Date.parse(inUtc ? `${text}Z` : text) / DAY;
}

/** The date so many days after 1970 in ISO 8601, with its time. */
export function isoOf(days) {
  return new Date(Math.round(days * DAY)).toISOString();
}

/** An error with three digits after the point, or fewer of a large one. */
export function precise(number) {
  return Math.abs(number) < 100 ? number.toFixed(3) : short(number);
}

/** A share: "12 %", "0.3 %". */
export function percent(share) {
  const hundredths = 100 * share;
  return `${Math.abs(hundredths) < 1 ? Number(hundredths.toFixed(2)) : Math.round(hundredths)} %`;
}

export function kilometres(number) {
  return `${number < 10 ? number.toFixed(1) : Math.round(number)} km`;
}

/** "just now", "5 min ago", "3 h ago", "2 days ago" */
export function ago(time, now) {
  const seconds = (new Date(now) - new Date(time)) / 1000;
  if (seconds < 45) return "just now";
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} days ago`;
}

/** The text as a sentence: with a capital letter and a full stop. */
export function sentence(text) {
  return text && text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

export function place(latitude, longitude, digits) {
  const north = `${Math.abs(latitude).toFixed(digits)}° ${latitude < 0 ? "S" : "N"}`;
  return `${north}, ${Math.abs(longitude).toFixed(digits)}° ${longitude < 0 ? "W" : "E"}`;
}

export const byId = (id) => document.getElementById(id);

/** Make an element; properties are set, children are elements or text. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Set the text of an element, or of the one with an id, unless it is there: somebody may be copying it. */
export function setText(target, text) {
  const node = typeof target === "string" ? byId(target) : target;
  if (node.textContent !== text) node.textContent = text;
}

/** Tell those who hear the page instead of seeing it. */
export function announce(text) {
  byId("news").textContent = text;
}
