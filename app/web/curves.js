// A small picture under each control: how the prediction changes with this feature alone.

import { shareOf } from "./controls.js";
import { amount, amounts, element, written } from "./text.js";

const MISSING_AT = 0.95; // from left to right
const WITHOUT_MISSING = 0.9; // of the width are for the curve where there is a point for a missing value
const MARGIN = 0.08; // above and below
const NAMED = 5; // points at most have their names below them

/** The picture of one feature; `onPick(value)` is called with the value of the point that is clicked. */
export class Curve {
  constructor(feature, onPick) {
    this.picture = drawing("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
    this.dots = element("div", { ariaHidden: "true" });
    this.point = element("span", { className: "dot at", hidden: true });
    this.says = element("p", { className: "note says", ariaHidden: "true" });
    const frame = element("div", { className: "frame" }, this.picture, this.dots, this.point);
    this.element = element("div", { className: "curve", hidden: true }, frame, this.says);
    frame.addEventListener("click", (event) => onPick(this._nearest(shareUnder(event)).value));
    frame.addEventListener("pointermove", (event) => this._pointAt(shareUnder(event)));
    frame.addEventListener("pointerleave", () => this._pointAt(null));
    this.feature = feature;
    this.points = [];
    this.pointer = null; // where it is above the curve, from 0 to 1: it stays there while a new curve is drawn
  }

  /** Draw a curve; `[least, most]` are the values at the bottom and at the top. */
  show(feature, { values, predicted, low, high }, [least, most]) {
    this.feature = feature;
    const span = (most - least) / (1 - 2 * MARGIN) || 1;
    const up = (number) => 0.5 + (number - (least + most) / 2) / span;
    const isOrdered = feature.scale.length > 0;
    const room = isOrdered && values.at(-1) === null ? WITHOUT_MISSING : 1;
    this.points = values.map((value, i) => {
      let across = (i + 0.5) / values.length;
      if (isOrdered) across = value === null ? MISSING_AT : room * shareOf(feature, value);
      return { value, across, predicted: predicted[i], up: up(predicted[i]), low: up(low[i]), high: up(high[i]) };
    });
    this.line = isOrdered ? this.points.filter(({ value }) => value !== null) : [];
    this.room = room;
    const single = this.points.filter((point) => !this.line.includes(point));
    const at = (part) => (point) => `${(100 * point.across).toFixed(2)} ${(100 - 100 * point[part]).toFixed(2)}`;
    const band = [...this.line.map(at("low")), ...this.line.map(at("high")).reverse()];
    const bars = single.map((point) => `M${at("low")(point)}L${at("high")(point)}`).join("");
    this.picture.replaceChildren(
      ...(band.length ? [drawing("path", { class: "band", d: `M${band.join("L")}Z` })] : []),
      ...(bars ? [drawing("path", { class: "bars", d: bars })] : []),
      ...(band.length ? [drawing("path", { class: "line", d: `M${this.line.map(at("up")).join("L")}` })] : []),
    );
    this.dots.replaceChildren(...single.map((point) => place(element("span", { className: "dot" }), point)));
    this.picture.setAttribute("aria-label", this._inWords());
    this._tell();
  }

  /** Mark the value that is in the form. */
  mark(value) {
    const point = this._pointOf(value);
    this.point.hidden = !point;
    if (point) place(this.point, point);
  }

  _pointOf(value) {
    const same = this.points.find((point) => point.value === value);
    if (same || !this.line?.length || value === null) return same;
    const across = this.room * shareOf(this.feature, value);
    if (Number.isNaN(across)) return undefined;
    const after = this.line.findIndex((point) => point.across >= across);
    if (after <= 0) return { across, up: this.line.at(after).up };
    const [left, right] = [this.line[after - 1], this.line[after]];
    return { across, up: left.up + ((across - left.across) / (right.across - left.across)) * (right.up - left.up) };
  }

  _pointAt(share) {
    this.pointer = share;
    this._tell();
  }

  _nearest(across) {
    return this.points.reduce((best, point) =>
      Math.abs(point.across - across) < Math.abs(best.across - across) ? point : best,
    );
  }

  /** Say what the point under the pointer is; or of all which they are, or from where to where their predictions go. */
  _tell() {
    const point = this.pointer === null ? null : this._nearest(this.pointer);
    const values = this.points.map(({ predicted }) => predicted);
    const isNamed = !point && !this.line.length && values.length <= NAMED;
    this.says.classList.toggle("names", isNamed);
    const nameOf = ({ value }) => element("span", { textContent: written(value, this.feature.type) });
    if (isNamed) this.says.replaceChildren(...this.points.map(nameOf));
    else this.says.textContent = point ? this._said(point) : amounts(Math.min(...values), Math.max(...values));
  }

  _said({ value, predicted }) {
    return `${written(value, this.feature.type)}: ${amount(predicted)}`;
  }

  _inWords() {
    const every = Math.ceil(this.line.length / 6);
    const heard = this.points.filter((point, i) => !this.line.includes(point) || i % every === 0);
    return `Prediction by ${this.feature.title}. ${heard.map((point) => this._said(point)).join("; ")}.`;
  }
}

function shareUnder({ currentTarget, clientX }) {
  const box = currentTarget.getBoundingClientRect();
  return (clientX - box.left) / box.width;
}

function place(node, { across, up }) {
  node.style.left = `${100 * across}%`;
  node.style.bottom = `${100 * Math.min(1, Math.max(0, up))}%`;
  return node;
}

function drawing(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
