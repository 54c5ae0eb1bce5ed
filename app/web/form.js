// The form: each feature with its control, the range of its values in training, and its curve.

import { controlOf, isHalfTyped } from "./controls.js";
import { Curve } from "./curves.js";
import { count, daysOf, element } from "./text.js";

/** An end of a range: of whole numbers as it is, as it may be a year; of others three digits; of a date the day. */
function brief(value, type) {
  if (typeof value === "string") return value.slice(0, 10);
  return type === "integer" && Math.abs(value) < 10_000 ? String(value) : count(Number(value.toPrecision(3)));
}

export class Form {
  /** `onAsk()` is called when somebody changes a value or submits the form. */
  constructor(form, container, onAsk) {
    this.container = container;
    this.fields = new Map();
    let asked = 0; // Enter in a field is both a change and a submission, but one question
    const askOnce = () => {
      clearTimeout(asked);
      asked = setTimeout(onAsk);
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      askOnce();
    });
    container.addEventListener("change", ({ target }) => {
      if (isHalfTyped(target)) clearTimeout(asked);
      else askOnce();
    });
  }

  /** Make the fields, or update them with the training ranges of a new version. */
  describe(features) {
    for (const feature of features) {
      if (this.fields.has(feature.name)) this.fields.get(feature.name).describe(feature);
      else this.fields.set(feature.name, new Field(feature, this.container));
    }
  }

  fill(values) {
    for (const [name, value] of Object.entries(values)) this.fields.get(name).set(value);
    this.blame({});
  }

  /** Return the values of the fields, or the text that was typed if it is no value; without empty fields. */
  read() {
    const values = {};
    for (const [name, field] of this.fields) {
      const value = field.control.read();
      if (value !== "") values[name] = value;
    }
    return values;
  }

  /** Return whether the form has the values of a row, null for those that are missing. */
  has(features) {
    const values = this.read();
    return Object.entries(features).every(([name, value]) => (values[name] ?? null) === value);
  }

  /** Show messages at the fields, by name. */
  blame(messages) {
    for (const [name, field] of this.fields) field.blame(messages[name]);
  }

  /** Show how each feature moves the answer; all curves have one scale, so that they can be compared. */
  showCurves(curves) {
    const values = curves.flatMap(({ predicted }) => predicted);
    const range = [Math.min(...values), Math.max(...values)];
    const byName = new Map(curves.map((curve) => [curve.name, curve]));
    for (const [name, field] of this.fields) field.showCurve(byName.get(name), range);
  }

  title(name) {
    return this.fields.get(name)?.feature.title ?? name;
  }
}

class Field {
  constructor(feature, container) {
    const id = `field-${feature.name}`;
    this.control = controlOf(feature, id);
    this.range = element("p", { id: `${id}-range`, className: "note" });
    this.problem = element("p", { id: `${id}-problem`, className: "problem", hidden: true });
    this.main = this.control.parts[0];
    this.main.setAttribute("aria-describedby", `${this.range.id} ${this.problem.id}`);
    const unit = element("span", { className: "unit soft", textContent: feature.unit });
    const label = element("label", { htmlFor: id, title: feature.description }, feature.title, " ", unit);
    this.curve = new Curve(feature, (value) => {
      this.set(value);
      this.element.dispatchEvent(new Event("change", { bubbles: true }));
    });
    const parts = [label, ...this.control.parts, this.curve.element, this.range, this.problem];
    this.element = element("div", { className: `field ${feature.type}` }, ...parts);
    container.append(this.element);
    this.describe(feature);
    this.set(feature.example);
    this.element.addEventListener("input", () => this._mark());
  }

  describe(feature) {
    this.feature = this.control.feature = feature;
    const known = feature.training_range;
    const [low, high] = known ?? [];
    const range = known ? [`${brief(low, feature.type)} to ${brief(high, feature.type)} in training`] : [];
    if (!feature.required && feature.categories === null && feature.type !== "boolean") range.push("may be empty");
    this.range.textContent = range.join("; ");
    this.control.follow?.();
    this._mark();
  }

  set(value) {
    this.control.write(value);
    this._mark();
  }

  blame(message) {
    this.problem.textContent = message ?? "";
    this.problem.hidden = !message;
    this.main.setAttribute("aria-invalid", String(Boolean(message)));
  }

  showCurve(curve, range) {
    this.curve.element.hidden = !curve;
    if (curve) this.curve.show(this.feature, curve, range);
    this._mark();
  }

  _mark() {
    const value = this.control.read();
    const known = this.feature.training_range;
    const size = typeof known?.[0] === "string" ? daysOf : (number) => number;
    const outside = known && value !== "" && (size(value) < size(known[0]) || size(value) > size(known[1]));
    this.element.classList.toggle("outside", Boolean(outside));
    this.curve.mark(value === "" ? null : value);
  }
}
