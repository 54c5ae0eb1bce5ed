// How places are drawn: dots in the colours of their values, marks above them, and the close-up of comparable places.

import { KILOMETRES } from "./places.js";

/** A window on the places: its centre, and how many pixels a degree of latitude has. */
export class View {
  constructor(north, east, scale, eastward) {
    Object.assign(this, { north, east, scale, eastward }); // eastward: a degree of longitude in degrees of latitude
  }

  x(east, width) {
    return width / 2 + (east - this.east) * this.eastward * this.scale;
  }

  y(north, height) {
    return height / 2 - (north - this.north) * this.scale;
  }
}

/** A canvas that shows places. Their dots are kept on a second canvas, so that the marks above can be redrawn alone. */
export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.dots = document.createElement("canvas");
    this.fit();
  }

  /** Take the size that the page gives the canvas; return false if it gives none. */
  fit() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    for (const canvas of [this.canvas, this.dots]) {
      canvas.width = Math.round(this.width * ratio);
      canvas.height = Math.round(this.height * ratio);
      canvas.getContext("2d").scale(ratio, ratio);
    }
    return this.width > 0 && this.height > 0;
  }

  drawDots(places, view, colours) {
    const context = this.dots.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    // A thousandth of the map, but together at least a small part of it: few places have larger dots.
    const least = Math.min(5, Math.max(1.7, 240 / Math.sqrt(places.count)));
    const size = Math.min(7, Math.max(least, (places.reach / 896) * view.scale));
    const round = size > 3;
    context.globalAlpha = round ? 0.9 : 0.85;
    for (let i = 0; i < places.count; i++) {
      const x = view.x(places.east[i], this.width);
      const y = view.y(places.north[i], this.height);
      if (x < -size || y < -size || x > this.width + size || y > this.height + size) continue;
      context.fillStyle = colours[places.shades[i]];
      if (round) {
        context.beginPath();
        context.arc(x, y, size / 2, 0, 2 * Math.PI);
        context.fill();
      } else {
        context.fillRect(x - size / 2, y - size / 2, size, size);
      }
    }
  }

  /** Copy the dots and return a context to draw above them. */
  begin() {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    if (this.dots.width && this.dots.height) context.drawImage(this.dots, 0, 0, this.width, this.height);
    return context;
  }
}

/** Draw what is around a place, with the others numbered; returns how many kilometres the picture is wide. */
export function drawLens(canvas, places, chosen, others) {
  const picture = new Picture(canvas);
  const distances = others.flatMap(({ north, east }) => [
    Math.abs(north - chosen.north),
    Math.abs(east - chosen.east) * places.eastward,
  ]);
  const reach = Math.max(places.reach / 470, ...distances);
  const scale = Math.min(picture.width, picture.height) / (2.6 * reach);
  const view = new View(chosen.north, chosen.east, scale, places.eastward);
  picture.drawDots(places, view, colours(places.highest));
  const context = picture.begin();
  const { color: ink, backgroundColor: paper, accentColor: accent } = getComputedStyle(canvas);
  context.font = "600 11px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  const pinned = [picture.width / 2, picture.height / 2];
  const taken = [pinned, [pinned[0], pinned[1] - 14]];
  others.forEach(({ north, east }, i) => {
    let [x, y] = [view.x(east, picture.width), view.y(north, picture.height)];
    // Several places often have the same rounded coordinates.
    const aside = x < picture.width / 2 ? 17 : -17;
    while (taken.some(([otherX, otherY]) => Math.hypot(otherX - x, otherY - y) < 17)) x += aside;
    taken.push([x, y]);
    fill(context, circle(x, y, 8.5), ink, paper);
    context.fillStyle = paper;
    context.fillText(String(i + 1), x, y + 0.5);
  });
  pin(context, ...pinned, accent, paper);
  return (picture.width / view.scale) * KILOMETRES;
}

/** Return a colour for each value of a byte, from the stops in the style sheet. */
export function colours(highest) {
  const stops = getComputedStyle(document.documentElement).getPropertyValue("--ramp").split(",");
  const channels = stops.map((stop) => stop.match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16)));
  return Array.from({ length: 256 }, (_, shade) => {
    const at = Math.min(1, shade / highest) * (channels.length - 1);
    const [low, high] = [channels[Math.floor(at)], channels[Math.ceil(at)]];
    const mixed = low.map((channel, i) => Math.round(channel + (high[i] - channel) * (at - Math.floor(at))));
    return `rgb(${mixed})`;
  });
}

export function ring(context, x, y, radius, ink, paper) {
  outline(context, circle(x, y, radius), ink, paper);
}

export function cross(context, x, y, ink, paper) {
  const arms = `M${x + 4} ${y}h10M${x - 4} ${y}h-10M${x} ${y + 4}v10M${x} ${y - 4}v-10`;
  outline(context, new Path2D(arms), ink, paper);
}

/** Draw a range as a vertical bar, and a value in it as a dot. */
export function bar(context, x, low, high, value, colour, paper) {
  const ends = `M${x} ${low}V${high}M${x - 6} ${low}h12M${x - 6} ${high}h12`;
  stroke(context, new Path2D(ends), 6, paper);
  stroke(context, new Path2D(ends), 3, colour);
  fill(context, circle(x, value, 6), colour, paper);
}

export function pin(context, x, y, colour, paper) {
  fill(context, new Path2D(`M${x} ${y}c-3 -8 -8 -10 -8 -16a8 8 0 0 1 16 0c0 6 -5 8 -8 16`), colour, paper);
  context.fillStyle = paper;
  context.fill(circle(x, y - 16, 3));
}

function circle(x, y, radius) {
  const path = new Path2D();
  path.arc(x, y, radius, 0, 2 * Math.PI);
  return path;
}

/** Draw a line in ink with edges of paper, so that it can be seen on any colour. */
function outline(context, path, ink, paper) {
  stroke(context, path, 4, paper);
  stroke(context, path, 1.75, ink);
}

function fill(context, path, colour, paper) {
  context.fillStyle = colour;
  context.fill(path);
  stroke(context, path, 1.5, paper);
}

function stroke(context, path, width, colour) {
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.stroke(path);
}
