// The browser's side of the sound: the microphone, the speaker, and the two worklets between them and the call.

/** A sentence for the person, instead of the browser's own error. */
export class AudioProblem extends Error {}

const MICROPHONE_WORDS = {
  NotAllowedError: "The microphone is blocked. Allow it for this page in the browser, then start again.",
  NotFoundError: "No microphone was found. Plug one in, then start again.",
  NotReadableError: "The microphone is in use by another program, or does not answer.",
  OverconstrainedError: "The microphone cannot be used with these settings.",
};

/**
 * Ask for the microphone.
 * @param {boolean} raw without the browser's echo, noise and gain processing: what goes in is what is sent
 */
export async function openMicrophone(raw) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new AudioProblem("The microphone needs a secure page: open this one over https, or on localhost.");
  }
  const processing = !raw;
  const audio = { channelCount: 1, echoCancellation: processing, noiseSuppression: processing, autoGainControl: processing };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio, video: false });
  } catch (error) {
    throw new AudioProblem(MICROPHONE_WORDS[error.name] ?? "The microphone could not be opened.");
  }
}

export function closeMicrophone(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/** Microphone and speaker of one call. `start` whenever the call's format is told; `close` when it is over. */
export class Sound {
  /**
   * @param {MediaStream} microphone
   * @param {{capture: string, playback: string}} modules addresses of the worklets
   */
  static async open(microphone, modules) {
    if (!window.AudioWorkletNode) throw new AudioProblem("This browser is too old for live audio. Please update it.");
    const context = new AudioContext({ latencyHint: "interactive" });
    try {
      await Promise.all([context.audioWorklet.addModule(modules.capture), context.audioWorklet.addModule(modules.playback)]);
      await context.resume();
    } catch (error) {
      await context.close();
      throw new AudioProblem("The sound could not be started in this browser.", { cause: error });
    }
    return new Sound(context, microphone);
  }

  constructor(context, microphone) {
    this.context = context;
    this.microphone = microphone;
  }

  /**
   * Start, or go on: nothing is touched where the format is what it was.
   * @param {{sample_rate: number, frame_ms: number}} format
   * @param {{frame: (frame: ArrayBuffer, level: number) => void, heard: (level: number, dropouts: number) => void}} handlers
   */
  start(format, handlers) {
    const key = `${format.sample_rate}/${format.frame_ms}`;
    if (key === this.format) return;
    this.#stop();
    this.format = key;
    this.capture = new AudioWorkletNode(this.context, "capture", {
      numberOfOutputs: 0,
      processorOptions: { sampleRate: format.sample_rate, frameMs: format.frame_ms },
    });
    this.capture.port.onmessage = ({ data }) => handlers.frame(data.frame, data.level);
    this.playback = new AudioWorkletNode(this.context, "playback", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { sampleRate: format.sample_rate },
    });
    this.playback.port.onmessage = ({ data }) => handlers.heard(data.level, data.dropouts);
    this.source = this.context.createMediaStreamSource(this.microphone);
    this.source.connect(this.capture);
    this.playback.connect(this.context.destination);
  }

  /** @param {ArrayBuffer} frame pcm_s16le, given away */
  play(frame) {
    this.playback?.port.postMessage(frame, [frame]);
  }

  /** @param {boolean} isMuted whether silence is sent instead of what the microphone hears */
  mute(isMuted) {
    for (const track of this.microphone.getAudioTracks()) track.enabled = !isMuted;
  }

  #stop() {
    this.source?.disconnect();
    for (const node of [this.capture, this.playback]) {
      if (!node) continue;
      node.port.onmessage = null;
      node.port.postMessage(null);
      node.disconnect();
    }
  }

  async close() {
    this.#stop();
    closeMicrophone(this.microphone);
    if (this.context.state !== "closed") await this.context.close();
  }
}
