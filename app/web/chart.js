// The chart of a table without places: its rows along one feature. It is clicked, and walked with the keyboard.

import { axisOf, datesOf, ticksOf } from "./axis.js";
import { Picture, bar, colours, cross, ring } from "./picture.js";
import { amount, announce, daysOf, isoOf, short, tick, written } from "./text.js";

const EDGE = { right: 14, top: 30, bottom: 42 };
const MISSING = 64; // pixels for the rows without a value
const FONT = "11px system-ui, sans-serif";
const DOT = 2.2;
const LABEL = 72; // pixels of a mark

/** The chart; `onChoose(number)` is called with the number of the point that somebody chooses. */
export class ChartPanel {
  constructor(canvas, readout, onChoose) {
    this.picture = new Picture(canvas);
    this.readout = readout;
    this.onChoose = onChoose;
    this.others = [];
    this._listen(canvas);
    new ResizeObserver(() => this.redraw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  /** Show `{x, y}` of rows along a feature; the values of x are numbers, as the models see them, or null. */
  show(feature, { x, y }) {
    Object.assign(this, { feature, x, y, cursor: null, hovered: null });
    this.isOrdered = feature.scale.length > 0;
    this.levels = feature.type === "boolean" ? ["no", "yes"] : (feature.categories ?? []);
    this.isGappy = x.includes(null) || !feature.required;
    const known = x.filter((value) => value !== null);
    this.along = this.isOrdered ? axisOf(known.length ? known : [0]) : [-0.5, this.levels.length - 0.5];
    this.up = axisOf(y);
    // Levels and whole numbers would hide each other in lines.
    const room = this.isOrdered ? (feature.type === "integer" ? 0.6 : 0) : 0.7;
    this.aside = x.map((_, i) => (((i * 0.618034) % 1) - 0.5) * room);
    this.redraw();
  }

  /** Mark the last question, `{features, value, low, high}`, and rows like it, `{features, actual_value}`. */
  mark(question, others) {
    Object.assign(this, { question, others });
    this._drawAbove();
  }

  redraw() {
    if (!this.picture.fit() || !this.feature) return;
    const { width, height } = this.picture;
    const context = this.picture.dots.getContext("2d");
    context.font = FONT;
    const left = 18 + Math.max(...ticksOf(...this.up, 6).map((value) => context.measureText(tick(value)).width));
    const right = width - EDGE.right;
    this.box = { ...EDGE, left, right: this.isGappy ? right - MISSING : right, bottom: height - EDGE.bottom };
    this.missing = right - MISSING / 2;
    this.points = this.x.map((value, i) => [this._across(value, this.aside[i], i), this._height(this.y[i])]);
    context.clearRect(0, 0, width, height);
    this._drawAxes(context, getComputedStyle(this.picture.canvas));
    const shades = colours(255);
    const [low, high] = this.up;
    context.globalAlpha = 0.75;
    this.points.forEach(([x, y], i) => {
      context.fillStyle = shades[Math.round(255 * Math.min(1, Math.max(0, (this.y[i] - low) / (high - low))))];
      context.beginPath();
      context.arc(x, y, DOT, 0, 2 * Math.PI);
      context.fill();
    });
    context.globalAlpha = 1;
    this._drawAbove();
  }

  _across(value, aside = 0, number = 0) {
    if (value === null) return this.missing + (((number * 0.618034) % 1) - 0.5) * 0.5 * MISSING;
    const { left, right } = this.box;
    const [low, high] = this.along;
    return left + (right - left) * Math.min(1, Math.max(0, (value + aside - low) / (high - low)));
  }

  _height(value) {
    const { top, bottom } = this.box;
    const [low, high] = this.up;
    return bottom - (bottom - top) * Math.min(1, Math.max(0, (value - low) / (high - low)));
  }

  _drawAxes(context, { color: ink, borderColor: line }) {
    const { left, right, top, bottom } = this.box;
    context.lineWidth = 1;
    context.strokeStyle = line;
    context.fillStyle = ink;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const value of ticksOf(...this.up, 6)) {
      const y = Math.round(this._height(value)) + 0.5;
      stroke(context, left, y, right, y);
      context.fillText(tick(value), left - 8, y);
    }
    context.textAlign = "center";
    const room = this.isOrdered ? 2 * LABEL : ((right - left) * this._every()) / this.levels.length - 4;
    for (const [value, text] of this._marks((right - left) / LABEL)) {
      const x = Math.round(this._across(value)) + 0.5;
      if (this.isOrdered) stroke(context, x, bottom, x, bottom + 4);
      context.fillText(fitted(context, text, room), x, bottom + 13);
    }
    const { title, unit } = this.feature;
    const name = fitted(context, unit ? `${title}, ${unit}` : title, right - left);
    context.fillText(name, (left + right) / 2, bottom + 31);
    if (!this.isGappy) return;
    stroke(context, right + 0.5, top, right + 0.5, bottom);
    context.fillText("missing", this.missing, bottom + 13);
  }

  _marks(most) {
    const { type } = this.feature;
    if (type === "date" || type === "datetime") return datesOf(...this.along, most / 1.3);
    if (this.isOrdered) return ticksOf(...this.along, Math.min(10, most)).map((value) => [value, short(value)]);
    const every = this._every();
    return this.levels.flatMap((level, i) => (i % every ? [] : [[i, level]]));
  }

  /** Return every how manieth level has room for its name. */
  _every() {
    return Math.ceil((this.levels.length * LABEL) / (this.box.right - this.box.left));
  }

  _drawAbove() {
    if (!this.feature || !this.box) return;
    const context = this.picture.begin();
    const { color: ink, backgroundColor: paper, accentColor: accent } = getComputedStyle(this.picture.canvas);
    for (const { features, actual_value: value } of this.others)
      ring(context, this._acrossOf(features), this._height(value), 5, ink, paper);
    if (this.hovered !== null) ring(context, ...this.points[this.hovered], 5, ink, paper);
    if (this.cursor) cross(context, ...this.cursor, ink, paper);
    if (!this.question) return;
    const { features, value, low, high } = this.question;
    bar(context, this._acrossOf(features), this._height(low), this._height(high), this._height(value), accent, paper);
  }

  _acrossOf(features) {
    const value = features[this.feature.name] ?? null;
    if (value === null) return this.missing;
    if (typeof value === "boolean") return this._across(Number(value));
    if (!this.isOrdered) {
      const level = this.levels.indexOf(value);
      return level < 0 ? (this.isGappy ? this.missing : this.box.right) : this._across(level);
    }
    return this._across(typeof value === "string" ? daysOf(value) : value);
  }

  /** Return the number of the point nearest to a place on the canvas, and describe it above the chart. */
  _tell(x, y) {
    let best = 0;
    let least = Infinity;
    this.points.forEach((point, i) => {
      const distance = (point[0] - x) ** 2 + (point[1] - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    this.readout.textContent = `${this.feature.title} ${this._said(this.x[best])}: ${amount(this.y[best])} in the data`;
    return best;
  }

  _said(value) {
    if (value === null) return "missing";
    if (!this.isOrdered) return this.levels[value];
    const { type } = this.feature;
    if (type === "integer" || type === "number") return short(value);
    return written(isoOf(value).slice(0, type === "date" ? 10 : 16), type);
  }

  _listen(canvas) {
    canvas.addEventListener("pointermove", (event) => {
      if (!this.points) return;
      this.hovered = this._tell(event.offsetX, event.offsetY);
      this._drawAbove();
    });
    canvas.addEventListener("pointerleave", () => this._leave());
    canvas.addEventListener("blur", () => this._leave());
    canvas.addEventListener("click", (event) => this.points && this.onChoose(this._tell(event.offsetX, event.offsetY)));
    canvas.addEventListener("keydown", (event) => this.points && this._key(event));
  }

  _leave() {
    this.hovered = this.cursor = null;
    this.readout.textContent = "";
    this._drawAbove();
  }

  _key(event) {
    const step = event.shiftKey ? 50 : 10;
    const steps = { ArrowUp: [0, -step], ArrowDown: [0, step], ArrowLeft: [-step, 0], ArrowRight: [step, 0] };
    const { left, right, top, bottom } = this.box;
    const [x, y] = this.cursor ?? [(left + right) / 2, (top + bottom) / 2];
    if (steps[event.key]) {
      const [across, down] = steps[event.key];
      const { width } = this.picture;
      this.cursor = [Math.min(width, Math.max(left, x + across)), Math.min(bottom, Math.max(top, y + down))];
      this.hovered = this._tell(...this.cursor);
      clearTimeout(this.telling);
      this.telling = setTimeout(() => announce(this.readout.textContent), 300); // when the key is let go
      this._drawAbove();
    } else if (event.key === "Enter" || event.key === " ") {
      this.onChoose(this._tell(x, y));
    } else {
      return;
    }
    event.preventDefault();
  }
}

function stroke(context, x, y, toX, toY) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(toX, toY);
  context.stroke();
}

/** Return a text, cut off where it is wider than so many pixels. */
function fitted(context, text, width) {
  let end = text.length;
  while (end > 1 && context.measureText(text.slice(0, end)).width > width) end--;
  return end < text.length ? `${text.slice(0, end - 1)}…` : text;
}
