// Microphone to frames: mixes to mono, converts to the rate of the call, packs pcm_s16le frames and posts each with its level.
// processorOptions: {sampleRate (Hz of the call), frameMs}. Posts {frame: ArrayBuffer, level: 0..1}.
import { Resampler } from "./resampler.js";

class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.resampler = new Resampler(sampleRate, processorOptions.sampleRate);
    this.frameSamples = Math.round((processorOptions.sampleRate * processorOptions.frameMs) / 1000);
    this.mono = new Float32Array(128);
    this.converted = new Float32Array(this.resampler.most(128));
    this.stopped = false;
    this.port.onmessage = () => {
      this.stopped = true;
    };
    this.#next();
  }

  process([channels]) {
    if (this.stopped) return false;
    if (channels.length === 0) return true; // the microphone has not begun
    this.#mix(channels);
    const count = this.resampler.process(this.mono, this.converted);
    for (let index = 0; index < count; index += 1) this.#put(this.converted[index]);
    return true;
  }

  #mix(channels) {
    if (this.mono.length !== channels[0].length) {
      this.mono = new Float32Array(channels[0].length);
      this.converted = new Float32Array(this.resampler.most(this.mono.length));
    }
    this.mono.set(channels[0]);
    for (let channel = 1; channel < channels.length; channel += 1) {
      for (let index = 0; index < this.mono.length; index += 1) this.mono[index] += channels[channel][index];
    }
    if (channels.length > 1) for (let index = 0; index < this.mono.length; index += 1) this.mono[index] /= channels.length;
  }

  #put(sample) {
    const bounded = Math.max(-1, Math.min(1, sample));
    // Little-endian whatever the machine is.
    this.frame.setInt16(this.at * 2, Math.round(bounded * 32767), true);
    this.energy += bounded * bounded;
    this.at += 1;
    if (this.at < this.frameSamples) return;
    const level = Math.sqrt(this.energy / this.frameSamples);
    this.port.postMessage({ frame: this.frame.buffer, level }, [this.frame.buffer]);
    this.#next();
  }

  #next() {
    this.frame = new DataView(new ArrayBuffer(this.frameSamples * 2));
    this.at = 0;
    this.energy = 0;
  }
}

registerProcessor("capture", Capture);
