// The way of a call's sound, first kind: frames over the session's own WebSocket. `RoomMedia` is the other kind; the page treats them alike:
//   static open(microphone, handlers, addresses)  before there is a session; takes the microphone over
//   begin(message, session)   at each session.started and session.resumed
//   hear(frame)               what came on the WebSocket
//   mute(isMuted)             the agent hears silence, or the person again
//   facts(session)            {audio, traffic, gaps} for support
//   close()                   for good; safe at any time
//   isIndependent             whether sound passes while the session's connection is lost
//   isConnected               whether sound passes now
// and tell by `handlers`: mine(level), theirs(level) from 0 to 1; connected(), lost(), in turns; failed(sentence), taken() once, and last;
// roundTrip(ms); agent(isThere); problem(sentence); wantsPass(): what session.resumed carries is needed to come back.
import { Sound } from "./audio.js";

export class SocketMedia {
  isIndependent = false;
  isConnected = false;
  #sound;
  #handlers;
  #audio = "–";
  #dropouts = 0;

  static async open(microphone, handlers, addresses) {
    return new SocketMedia(await Sound.open(microphone, addresses), handlers);
  }

  constructor(sound, handlers) {
    this.#sound = sound;
    this.#handlers = handlers;
  }

  begin({ audio }, session) {
    this.#audio = `${audio.encoding}, ${audio.sample_rate} Hz, ${audio.frame_ms} ms`;
    this.#sound.start(audio, {
      frame: (frame, level) => this.#handlers.mine(session.sendAudio(frame) ? level : 0),
      heard: (level, dropouts) => {
        this.#dropouts = dropouts;
        this.#handlers.theirs(level);
      },
    });
    this.isConnected = true;
    this.#handlers.connected();
  }

  hear(frame) {
    this.#sound.play(frame);
  }

  mute(isMuted) {
    this.#sound.mute(isMuted);
  }

  facts({ sent, received, dropped }) {
    return { audio: this.#audio, traffic: `${sent} sent, ${received} received, ${dropped} dropped`, gaps: this.#dropouts };
  }

  close() {
    this.isConnected = false;
    this.#sound.close();
  }
}
