// The form: each feature as a number and a slider that move together. Its texts come from the table.

import { count, element, short } from "./text.js";

const STEPS = 1000; // of a slider

const brief = (number) => count(Number(number.toPrecision(3)));

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
    container.addEventListener("change", askOnce);
  }

  /** Make the fields, or update them with the training ranges of a new version. */
  describe(features) {
    for (const feature of features) {
      const field = this.fields.get(feature.name);
      if (field) {
        field.describe(feature);
      } else {
        const made = new Field(feature);
        this.fields.set(feature.name, made);
        this.container.append(made.element);
      }
    }
  }

  fill(values) {
    for (const [name, value] of Object.entries(values)) this.fields.get(name).set(value);
    this.blame({});
  }

  /** Return the values of the fields: numbers, or the text that was typed if it is no number; without empty fields. */
  read() {
    const values = {};
    for (const [name, field] of this.fields) {
      const value = field.read();
      if (value !== "") values[name] = value;
    }
    return values;
  }

  /** Show messages at the fields, by name. */
  blame(messages) {
    for (const [name, field] of this.fields) field.blame(messages[name]);
  }

  title(name) {
    return this.fields.get(name)?.feature.title ?? name;
  }
}

class Field {
  constructor(feature) {
    const { name } = feature;
    const id = `field-${name}`;
    this.number = element("input", { id, name, type: "text", inputMode: "decimal", autocomplete: "off" });
    this.slider = element("input", { type: "range", min: 0, max: STEPS, ariaLabel: `${feature.title}, slider` });
    this.range = element("p", { id: `${id}-range`, className: "note" });
    this.problem = element("p", { id: `${id}-problem`, className: "problem", hidden: true });
    this.number.setAttribute("aria-describedby", `${this.range.id} ${this.problem.id}`);
    const unit = element("span", { className: "unit", textContent: feature.unit });
    const label = element("label", { htmlFor: id, title: feature.description }, feature.title, " ", unit);
    this.element = element("div", { className: "field" }, label, this.number, this.slider, this.range, this.problem);
    this.describe(feature);
    this.set(feature.example);
    this.slider.addEventListener("input", () => this._show(this._valueAt(this.slider.value / STEPS)));
    this.number.addEventListener("input", () => this._follow());
  }

  describe(feature) {
    this.feature = feature;
    const known = feature.training_range;
    this.range.textContent = known ? `${brief(known[0])} to ${brief(known[1])} in training` : "";
    this._follow();
  }

  set(value) {
    this._show(value);
    this._follow();
  }

  /** Return the number with all digits that were set, unless somebody has typed another one. */
  read() {
    const text = this.number.value.trim();
    if (text === this.shown) return this.exact;
    const number = Number(text);
    return text !== "" && Number.isFinite(number) ? number : text;
  }

  blame(message) {
    this.problem.textContent = message ?? "";
    this.problem.hidden = !message;
    this.number.setAttribute("aria-invalid", String(Boolean(message)));
  }

  _show(value) {
    this.exact = value;
    this.shown = this.number.value = short(value);
    this._mark(value);
  }

  /** Move the slider to where the number is. */
  _follow() {
    const value = this.read();
    if (typeof value !== "number") return;
    this.slider.value = Math.round(STEPS * this._shareOf(value));
    this._mark(value);
  }

  _mark(value) {
    const known = this.feature.training_range;
    const outside = Boolean(known) && (value < known[0] || value > known[1]);
    this.element.classList.toggle("outside", outside);
    this.slider.setAttribute("aria-valuetext", `${short(value)} ${this.feature.unit}`);
    this.slider.style.setProperty("--share", `${100 * this._shareOf(value)}%`);
  }

  // The marks of the scale have equal distances on the slider, so that every part of it is useful.
  _valueAt(share) {
    const { scale } = this.feature;
    const at = share * (scale.length - 1);
    const below = Math.floor(at);
    if (at === below) return scale[below];
    return Number((scale[below] + (at - below) * (scale[below + 1] - scale[below])).toPrecision(5));
  }

  _shareOf(value) {
    const { scale } = this.feature;
    const above = scale.findIndex((mark) => value <= mark);
    if (above <= 0) return above === 0 ? 0 : 1;
    const [low, high] = [scale[above - 1], scale[above]];
    return (above - 1 + (value - low) / (high - low)) / (scale.length - 1);
  }
}
