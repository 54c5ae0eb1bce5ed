// All block groups as the page has them: where they are, and what the census found.

import { CITIES } from "./cities.js";

export const EASTWARD = Math.cos((37.25 * Math.PI) / 180); // a degree of longitude in degrees of latitude, mid-California
export const KILOMETRES = 111.2; // in a degree of latitude

/** All places as typed arrays: degrees north and east, and values in the model's unit. */
export class Places {
  constructor(buffer) {
    const header = new DataView(buffer);
    this.count = header.getUint32(0, true);
    const [south, west, step, valueStep] = [8, 12, 16, 20].map((offset) => header.getFloat32(offset, true));
    const steps = new Uint16Array(buffer, 24, 2 * this.count); // little-endian, as all machines with a browser are
    this.shades = new Uint8Array(buffer, 24 + 4 * this.count, this.count);
    this.north = Float32Array.from(steps.subarray(0, this.count), (number) => south + number * step);
    this.east = Float32Array.from(steps.subarray(this.count), (number) => west + number * step);
    this.valueStep = valueStep;
    this.highest = this.shades.reduce((highest, shade) => Math.max(highest, shade), 1);
  }

  /** Return the number of the place nearest to a point. */
  nearest(north, east) {
    let best = 0;
    let least = Infinity;
    for (let i = 0; i < this.count; i++) {
      const up = this.north[i] - north;
      const right = (this.east[i] - east) * EASTWARD;
      const distance = up * up + right * right;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }
}

/** Return ", Oakland" where a place is close to a city that has a name here. */
export function nearCity(north, east) {
  const close = CITIES.map(([name, lat, lon]) => [
    Math.hypot(lat - north, (lon - east) * EASTWARD) * KILOMETRES,
    name,
  ]);
  const [kilometres, name] = close.reduce((best, other) => (other[0] < best[0] ? other : best));
  return kilometres < 8 ? `, ${name}` : "";
}
