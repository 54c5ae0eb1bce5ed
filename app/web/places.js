// All places of the data as the page has them: where they are, and their values.

export const KILOMETRES = 111.2; // in a degree of latitude

/** Typed arrays of all places, and landmarks as `{name, north, east, zoom}`. */
export class Places {
  constructor(buffer, landmarks) {
    const header = new DataView(buffer);
    this.count = header.getUint32(0, true);
    const [south, west, step, least, valueStep] = [4, 8, 12, 16, 20].map((offset) => header.getFloat32(offset, true));
    const steps = new Uint16Array(buffer, 24, 2 * this.count); // little-endian, as all machines with a browser are
    this.shades = new Uint8Array(buffer, 24 + 4 * this.count, this.count);
    this.north = Float32Array.from(steps.subarray(0, this.count), (number) => south + number * step);
    this.east = Float32Array.from(steps.subarray(this.count), (number) => west + number * step);
    this.values = Float32Array.from(this.shades, (shade) => least + shade * valueStep);
    this.least = least;
    this.most = least + this.shades.reduce((most, shade) => Math.max(most, shade), 1) * valueStep;
    const range = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    [this.south, this.top] = range(this.north);
    [this.west, this.right] = range(this.east);
    this.eastward = Math.cos((((this.south + this.top) / 2) * Math.PI) / 180); // of a degree of latitude
    this.reach = this.top - this.south || 1;
    this.digits = this.reach < 1 ? 4 : 2; // of degrees in words
    this.landmarks = landmarks;
    this.highest = this.shades.reduce((highest, shade) => Math.max(highest, shade), 1);
  }

  /** Return the place nearest to a point, as `{north, east, value}`. */
  nearest(north, east) {
    let best = 0;
    let least = Infinity;
    for (let i = 0; i < this.count; i++) {
      const up = this.north[i] - north;
      const right = (this.east[i] - east) * this.eastward;
      const distance = up * up + right * right;
      if (distance < least) [best, least] = [i, distance];
    }
    return { north: this.north[best], east: this.east[best], value: this.values[best] };
  }

  /** Return ", Oakland" for a point close to that landmark, otherwise nothing. */
  nearLandmark(north, east) {
    const near = this.landmarks.find(
      (mark) => Math.hypot(mark.north - north, (mark.east - east) * this.eastward) * KILOMETRES < 8,
    );
    return near ? `, ${near.name}` : "";
  }
}
