// Frames to speaker, through a small jitter buffer. processorOptions: {sampleRate (Hz of the call)}.
// Takes ArrayBuffers of pcm_s16le; posts {level: 0..1, dropouts} about 20 times a second.
// Waits for PRIME_S before it plays, and again after it ran dry. What network stalls have piled up is taken back in pauses of the speech
// only, so that no word is cut; past LIMIT_S the oldest goes.
import { Resampler } from "./resampler.js";

const PRIME_S = 0.06;
const RELAXED_S = 0.14; // more than this is too much delay: skip silence
const LIMIT_S = 10;
const SILENCE = 0.004; // peak, of 1
const MOST_AT_ONCE = 8000; // samples, what the resampler takes
const REPORT_S = 0.05;

class Playback extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.resampler = new Resampler(processorOptions.sampleRate, sampleRate);
    this.chunks = [];
    this.offset = 0; // in the first chunk
    this.queued = 0; // samples
    this.playing = false;
    this.dropouts = 0;
    this.energy = 0;
    this.counted = 0;
    this.stopped = false;
    this.port.onmessage = ({ data }) => {
      if (data === null) this.stopped = true;
      else this.#take(data);
    };
  }

  #take(buffer) {
    const view = new DataView(buffer);
    const samples = new Float32Array(Math.floor(buffer.byteLength / 2));
    let peak = 0;
    for (let index = 0; index < samples.length; index += 1) {
      samples[index] = view.getInt16(index * 2, true) / 32768;
      peak = Math.max(peak, Math.abs(samples[index]));
    }
    if (peak < SILENCE && this.queued > RELAXED_S * sampleRate) return;
    for (let start = 0; start < samples.length; start += MOST_AT_ONCE) {
      const part = samples.subarray(start, start + MOST_AT_ONCE);
      const converted = new Float32Array(this.resampler.most(part.length));
      const count = this.resampler.process(part, converted);
      this.chunks.push(converted.subarray(0, count));
      this.queued += count;
    }
    while (this.queued > LIMIT_S * sampleRate) this.#dropFirst();
  }

  #dropFirst() {
    this.queued -= this.chunks.shift().length - this.offset;
    this.offset = 0;
  }

  process(_inputs, [[output]]) {
    if (this.stopped) return false;
    if (!this.playing && this.queued >= PRIME_S * sampleRate) this.playing = true;
    if (this.playing) this.#fill(output);
    this.#measure(output);
    return true;
  }

  #fill(output) {
    let at = 0;
    while (at < output.length && this.chunks.length > 0) {
      const chunk = this.chunks[0];
      const count = Math.min(output.length - at, chunk.length - this.offset);
      output.set(chunk.subarray(this.offset, this.offset + count), at);
      at += count;
      this.offset += count;
      this.queued -= count;
      if (this.offset === chunk.length) {
        this.chunks.shift();
        this.offset = 0;
      }
    }
    if (at < output.length) {
      this.playing = false;
      this.dropouts += 1;
    }
  }

  #measure(output) {
    for (let index = 0; index < output.length; index += 1) this.energy += output[index] * output[index];
    this.counted += output.length;
    if (this.counted < REPORT_S * sampleRate) return;
    this.port.postMessage({ level: Math.sqrt(this.energy / this.counted), dropouts: this.dropouts });
    this.energy = 0;
    this.counted = 0;
  }
}

registerProcessor("playback", Playback);
