// Streaming sample rate conversion, mono, any ratio: windowed sinc with linear interpolation between table entries.
// Used inside both worklets, so that the browser's own rate (often 48000 or 44100 Hz) need not be that of the call.

const ZERO_CROSSINGS = 16;
const TABLE_STEPS = 128; // entries per input sample
const PASSBAND = 0.94; // of the lower Nyquist frequency; the rest is the filter's slope

function kernelTable(cutoff, half) {
  const table = new Float32Array(half * TABLE_STEPS + 2);
  for (let index = 0; index < table.length; index += 1) {
    const x = index / TABLE_STEPS;
    const angle = Math.PI * cutoff * x;
    const sinc = angle === 0 ? 1 : Math.sin(angle) / angle;
    const window = x >= half ? 0 : 0.42 + 0.5 * Math.cos((Math.PI * x) / half) + 0.08 * Math.cos((2 * Math.PI * x) / half);
    table[index] = cutoff * sinc * window;
  }
  return table;
}

export class Resampler {
  /** @param {number} from Hz  @param {number} to Hz */
  constructor(from, to) {
    this.same = from === to;
    this.step = from / to; // input samples per output sample
    const cutoff = Math.min(1, to / from) * PASSBAND;
    this.half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.table = this.same ? null : kernelTable(cutoff, this.half);
    this.buffer = new Float32Array(this.half * 2 + 8192);
    this.filled = this.half; // silence before the first sample
    this.position = this.half;
  }

  /** Most samples that `process` writes for this many. */
  most(length) {
    return Math.ceil(length / this.step) + 1;
  }

  /** Convert `input` (at most 8000 samples) into `output`; returns how many samples were written. */
  process(input, output) {
    if (this.same) {
      output.set(input);
      return input.length;
    }
    this.buffer.set(input, this.filled);
    this.filled += input.length;
    let written = 0;
    while (Math.floor(this.position) + this.half < this.filled) {
      output[written] = this.#at(this.position);
      written += 1;
      this.position += this.step;
    }
    const spent = Math.min(this.filled, Math.floor(this.position) - this.half);
    if (spent > 0) {
      this.buffer.copyWithin(0, spent, this.filled);
      this.filled -= spent;
      this.position -= spent;
    }
    return written;
  }

  #at(position) {
    const centre = Math.floor(position);
    let sum = 0;
    for (let index = centre - this.half + 1; index <= centre + this.half; index += 1) {
      const place = Math.abs(position - index) * TABLE_STEPS;
      const entry = Math.floor(place);
      const low = this.table[entry];
      sum += this.buffer[index] * (low + (this.table[entry + 1] - low) * (place - entry));
    }
    return sum;
  }
}
