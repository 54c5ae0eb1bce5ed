// The map: it is clicked, zoomed, dragged, and walked with the keyboard.

import { Picture, View, colours, cross, pin, ring } from "./picture.js";
import { amount, announce, place } from "./text.js";

const MAX_ZOOM = 40;

/** The map; `onChoose(north, east)` is called with the point that somebody chooses. */
export class MapPanel {
  constructor(canvas, readout, onChoose) {
    this.picture = new Picture(canvas);
    this.readout = readout;
    this.onChoose = onChoose;
    this.marks = [];
    this.cursor = null;
    this.hovered = null;
    this._listen(canvas);
    new ResizeObserver(() => this.redraw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  show(places) {
    this.places = places;
    this.redraw();
  }

  /** Mark a chosen place and others to compare, each `{north, east}`. */
  mark(chosen, others) {
    this.chosen = chosen;
    this.marks = others;
    this._drawAbove();
  }

  /** Centre the map on a point, `zoom` times as large as the whole map. */
  goTo(north, east, zoom) {
    this._show(this._view(north, east, this._whole().scale * zoom));
  }

  zoomBy(factor, x = this.picture.width / 2, y = this.picture.height / 2) {
    const { north, east } = this._at(x, y);
    const whole = this._whole();
    const scale = Math.min(MAX_ZOOM * whole.scale, Math.max(whole.scale, this.view.scale * factor));
    // What lies under the pointer stays there.
    const { width, height } = this.picture;
    this._show(
      this._view(north + (y - height / 2) / scale, east - (x - width / 2) / scale / this.places.eastward, scale),
    );
  }

  zoomOut() {
    this._show(this._whole());
  }

  redraw() {
    if (!this.picture.fit() || !this.places) return;
    const isWhole = !this.view || this.view === this.all;
    this.all = null;
    this._show(isWhole ? this._whole() : this.view);
  }

  _whole() {
    if (!this.all) {
      const { width, height } = this.picture;
      const { south, top, west, right, eastward } = this.places;
      this.reach = [(top - south) / 2 || 0.5, (right - west) / 2 || 0.5];
      const scale = Math.min(width / (2.1 * this.reach[1] * eastward), height / (2.1 * this.reach[0]));
      this.all = this._view((top + south) / 2, (right + west) / 2, scale);
    }
    return this.all;
  }

  _view(north, east, scale) {
    return new View(north, east, scale, this.places.eastward);
  }

  _show(view) {
    const whole = this._whole();
    const margin = 1 - whole.scale / view.scale; // the centre can move as far as the whole is larger than the window
    const clamp = (value, centre, reach) => Math.min(centre + reach, Math.max(centre - reach, value));
    if (view !== whole) {
      view.north = clamp(view.north, whole.north, 1.05 * this.reach[0] * margin);
      view.east = clamp(view.east, whole.east, 1.05 * this.reach[1] * margin);
    }
    this.view = view.scale <= whole.scale ? whole : view;
    // Over the whole map a finger scrolls the page; over a part of it, the map.
    this.picture.canvas.style.touchAction = this.view === whole ? "pan-y" : "none";
    this.picture.drawDots(this.places, this.view, colours(this.places.highest));
    this._drawAbove();
  }

  _drawAbove() {
    if (!this.places || !this.view) return;
    const context = this.picture.begin();
    const { width, height } = this.picture;
    const { color: ink, backgroundColor: paper, accentColor: accent } = getComputedStyle(this.picture.canvas);
    const at = ({ north, east }) => [this.view.x(east, width), this.view.y(north, height)];
    this._drawNames(context, at, ink, paper);
    for (const mark of this.marks) ring(context, ...at(mark), 4, ink, paper);
    if (this.hovered) ring(context, ...at(this.hovered), 5, ink, paper);
    if (this.cursor) cross(context, ...at(this.cursor), ink, paper);
    if (this.chosen) pin(context, ...at(this.chosen), accent, paper);
  }

  _drawNames(context, at, ink, paper) {
    const zoom = this.view.scale / this._whole().scale;
    context.font = "500 11px system-ui, sans-serif";
    context.lineJoin = "round";
    context.textBaseline = "middle";
    const taken = [];
    for (const landmark of this.places.landmarks.filter((mark) => mark.zoom <= zoom)) {
      const { name } = landmark;
      const [x, y] = at(landmark);
      const width = context.measureText(name).width + 10;
      const left = x + width > this.picture.width;
      const [start, end] = left ? [x - width, x] : [x, x + width];
      if (taken.some((box) => Math.abs(box.y - y) < 13 && start < box.end && box.start < end)) continue;
      taken.push({ y, start, end });
      context.textAlign = left ? "right" : "left";
      context.lineWidth = 3;
      context.strokeStyle = paper;
      context.strokeText(name, x + (left ? -7 : 7), y);
      context.fillStyle = ink;
      context.fillText(name, x + (left ? -7 : 7), y);
      context.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
  }

  _at(x, y) {
    const { width, height } = this.picture;
    return {
      north: this.view.north - (y - height / 2) / this.view.scale,
      east: this.view.east + (x - width / 2) / this.view.scale / this.places.eastward,
    };
  }

  _choose(point) {
    this.chosen = point;
    this.marks = [];
    this._drawAbove();
    this.onChoose(point.north, point.east);
  }

  /** Describe the place nearest to a point below the map, and return that place. */
  _tell(point) {
    const nearest = this.places.nearest(point.north, point.east);
    const where = place(nearest.north, nearest.east, this.places.digits);
    const close = this.places.nearLandmark(nearest.north, nearest.east);
    this.readout.textContent = `${where}${close}: about ${amount(nearest.value)} in the data`;
    return nearest;
  }

  _listen(canvas) {
    const pointers = new Map();
    let moved = false;
    let apart = 0;
    canvas.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      canvas.setPointerCapture(event.pointerId);
      if (pointers.size === 1) moved = false;
      apart = distance(pointers);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.view) return;
      const before = pointers.get(event.pointerId);
      const [x, y] = [event.offsetX, event.offsetY];
      if (!before) {
        this.hovered = this._tell(this._at(x, y));
        return this._drawAbove();
      }
      if (!moved && Math.hypot(x - before[0], y - before[1]) < 4) return;
      moved = true;
      pointers.set(event.pointerId, [x, y]);
      if (pointers.size === 2) {
        const now = distance(pointers);
        const [[ax, ay], [bx, by]] = pointers.values();
        if (apart > 0) this.zoomBy(now / apart, (ax + bx) / 2, (ay + by) / 2);
        apart = now;
      } else if (this.view !== this._whole()) {
        const north = this.view.north + (y - before[1]) / this.view.scale;
        const east = this.view.east - (x - before[0]) / this.view.scale / this.places.eastward;
        this._show(this._view(north, east, this.view.scale));
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      if (!pointers.delete(event.pointerId) || moved || !this.view) return;
      this.cursor = null;
      this._choose(this._at(event.offsetX, event.offsetY));
    });
    canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => {
      this.hovered = null;
      this.readout.textContent = "";
      this._drawAbove();
    });
    // The wheel scrolls the page; a pinch on a touchpad comes as a wheel with Ctrl.
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey || !this.view) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 100), event.offsetX, event.offsetY);
    });
    canvas.addEventListener("keydown", (event) => this.view && this._key(event));
    canvas.addEventListener("blur", () => {
      this.cursor = null;
      this._drawAbove();
    });
  }

  _key(event) {
    const step = (event.shiftKey ? 0.1 : 0.02) * (this.picture.height / this.view.scale);
    const steps = { ArrowUp: [step, 0], ArrowDown: [-step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
    const cursor = this.cursor ?? { ...(this.chosen ?? this.view) };
    if (steps[event.key]) {
      const [up, right] = steps[event.key];
      this.cursor = { north: cursor.north + up, east: cursor.east + right / this.places.eastward };
      const { width, height } = this.picture;
      const [x, y] = [this.view.x(this.cursor.east, width), this.view.y(this.cursor.north, height)];
      if (x < 0 || y < 0 || x > width || y > height)
        this._show(this._view(this.cursor.north, this.cursor.east, this.view.scale));
      this._tell(this.cursor);
      clearTimeout(this.telling);
      this.telling = setTimeout(() => announce(this.readout.textContent), 300); // when the key is let go
      this._drawAbove();
    } else if (event.key === "Enter" || event.key === " ") {
      this.cursor = cursor;
      this._choose({ north: cursor.north, east: cursor.east });
    } else if (event.key === "+" || event.key === "=") {
      this.goTo(cursor.north, cursor.east, Math.min(MAX_ZOOM, (this.view.scale / this._whole().scale) * 1.6));
    } else if (event.key === "-") {
      this.zoomBy(1 / 1.6);
    } else if (event.key === "0") {
      this.zoomOut();
    } else {
      return;
    }
    event.preventDefault();
  }
}

function distance(pointers) {
  if (pointers.size < 2) return 0;
  const [[ax, ay], [bx, by]] = pointers.values();
  return Math.hypot(ax - bx, ay - by);
}
