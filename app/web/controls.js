// The controls of the form, one for each type of feature: how a value is shown, and how it is read.

import { daysOf, element, short, written } from "./text.js";

const STEPS = 1000; // of a slider
const MANY = 30; // levels: more are a list that is searched by typing
const MISSING = "missing";

/**
 * Return the control of a feature. `parts` are its elements, the first of which has the label. `read()` returns its
 * value, "" for none, or what was typed if it is no value; `write(value)` shows one, null is a missing one.
 */
export function controlOf(feature, id) {
  const { type, categories } = feature;
  if (type === "number" || type === "integer") return new NumberControl(feature, id);
  if (type === "date" || type === "datetime") return new DateControl(feature, id);
  return categories?.length > MANY ? new ListControl(feature, id) : new ChoiceControl(feature, id);
}

/** Return where a value of an ordered feature lies on its slider, from 0 to 1: its marks have equal distances there. */
export function shareOf({ scale, type }, value) {
  const number = type === "date" || type === "datetime" ? daysOf(value) : value;
  const above = scale.findIndex((mark) => number <= mark);
  if (above <= 0) return above === 0 ? 0 : 1;
  const [low, high] = [scale[above - 1], scale[above]];
  return (above - 1 + (number - low) / (high - low)) / (scale.length - 1);
}

/** Return whether a date is being typed: it is incomplete for a moment, and the first digits of a year are one too. */
export function isHalfTyped({ type, value, validity }) {
  return type?.startsWith("date") && (validity.badInput || value.startsWith("0"));
}

/** A number as text, and a slider that moves with it. */
class NumberControl {
  constructor(feature, id) {
    this.text = textInput(feature, id);
    this.text.inputMode = feature.type === "integer" && feature.minimum >= 0 ? "numeric" : "decimal";
    this.slider = element("input", { type: "range", min: 0, max: STEPS, ariaLabel: `${feature.title}, slider` });
    this.parts = [this.text, this.slider];
    this.slider.addEventListener("input", () => this._show(this._valueAt(this.slider.value / STEPS)));
    this.text.addEventListener("input", () => this.follow());
    this.feature = feature;
  }

  write(value) {
    this._show(value);
    this.follow();
  }

  /** Return the number with all digits that were set, unless somebody has typed another one. */
  read() {
    const text = this.text.value.trim();
    if (text === this.shown) return this.exact ?? "";
    const number = Number(text);
    return text !== "" && Number.isFinite(number) ? number : text;
  }

  /** Move the slider to where the number is. */
  follow() {
    const value = this.read();
    this.slider.classList.toggle("idle", value === "");
    if (typeof value !== "number") return;
    this.slider.value = Math.round(STEPS * shareOf(this.feature, value));
    this._mark(value);
  }

  _show(value) {
    this.exact = value;
    this.shown = this.text.value = value === null ? "" : short(value);
    this.slider.classList.toggle("idle", value === null);
    if (value !== null) this._mark(value);
  }

  _mark(value) {
    this.slider.setAttribute("aria-valuetext", `${short(value)} ${this.feature.unit}`.trim());
    this.slider.style.setProperty("--share", `${100 * shareOf(this.feature, value)}%`);
  }

  _valueAt(share) {
    const { scale, type } = this.feature;
    const at = share * (scale.length - 1);
    const below = Math.floor(at);
    const value = at === below ? scale[below] : scale[below] + (at - below) * (scale[below + 1] - scale[below]);
    if (type === "integer") return Math.round(value);
    return at === below ? value : Number(value.toPrecision(5));
  }
}

class DateControl {
  constructor({ type, minimum, maximum }, id) {
    // With a step of a second a value keeps its seconds.
    const kind = type === "date" ? { type } : { type: "datetime-local", step: 1 };
    this.input = element("input", { id, ...kind, min: minimum, max: maximum });
    this.parts = [this.input];
  }

  write(value) {
    this.exact = value;
    this.input.value = value ?? "";
    this.shown = this.input.value;
  }

  read() {
    return this.input.value === this.shown ? (this.exact ?? "") : this.input.value;
  }
}

/** A level to choose, or where that is allowed to type; true and false are levels too. */
class ChoiceControl {
  constructor(feature, id) {
    const { categories, type, required, unknown } = feature;
    this.levels = type === "boolean" ? [true, false] : categories;
    this.select = element("select", { id });
    if (!required) this.select.append(element("option", { value: "", textContent: MISSING }));
    this.select.append(
      ...this.levels.map((level, value) => element("option", { value, textContent: written(level, type) })),
    );
    this.parts = [this.select];
    if (type === "boolean" || unknown === "refuse") return;
    this.select.append(element("option", { value: "other", textContent: "another one…" }));
    this.text = element("input", { type: "text", hidden: true, autocomplete: "off", placeholder: "which?" });
    this.text.ariaLabel = `${feature.title}, one that is not in the list`;
    this.parts.push(this.text);
    this.select.addEventListener("change", (event) => {
      this._show(this.select.value);
      if (this.text.hidden) return;
      event.stopPropagation(); // there is nothing to ask before it is typed
      this.text.focus();
    });
  }

  write(value) {
    const level = this.levels.indexOf(value);
    if (level < 0 && value !== null && this.text) {
      this.text.value = value;
      this._show("other");
    } else this._show(value === null ? "" : String(level));
  }

  read() {
    const { value } = this.select;
    if (value === "other") return this.text.value.trim();
    return value === "" ? "" : this.levels[value];
  }

  _show(choice) {
    this.select.value = choice;
    if (this.text) this.text.hidden = choice !== "other";
  }
}

/** One of many levels: typed, with a list of those that are known. */
class ListControl {
  constructor(feature, id) {
    this.text = textInput(feature, id);
    this.text.classList.add("word");
    const known = feature.categories.map((level) => element("option", { value: level }));
    const list = element("datalist", { id: `${id}-levels` }, ...known);
    this.text.setAttribute("list", list.id);
    this.text.addEventListener("focus", () => this.text.select());
    this.parts = [this.text, list];
  }

  write(value) {
    this.text.value = value ?? "";
  }

  read() {
    return this.text.value.trim();
  }
}

function textInput({ name, required }, id) {
  return element("input", { id, name, type: "text", autocomplete: "off", placeholder: required ? "" : MISSING });
}
