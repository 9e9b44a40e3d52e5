// The way of a call's sound, second kind: a room of LiveKit's, which the browser joins by itself with the pass that the session hands it.
// What it offers and tells is written in socket-media.js.
//
// A short loss is LiveKit's own to mend; the room object does it. Once that has given up, or when a new pass comes meanwhile, the room is
// joined anew, with the pass while it is good, else with one that is asked for.
import { AudioProblem, closeMicrophone } from "./audio.js";
import { delayMs } from "./coming-back.js";

const GIVE_UP_MS = 30_000; // no server keeps a session for a client much longer
const PASS_MS = 45_000; // a pass opens the door for 60 s from when it was made
const JOIN_MS = 8000; // for one try
const MEND_MS = 10_000; // LiveKit mends a loss by itself for so long: a server that starts again is missed for a few seconds only
const MOST_MEND_DELAY_MS = 1000;
const WORD_MS = 3000; // who was put out of the room is told why on the session's connection, within this
const LEVEL_MS = 50;
const LOOK_MS = 2000; // how often the connection is asked how it is

export class RoomMedia {
  isIndependent = true;
  #kit;
  #microphone;
  #handlers;
  #ears = new Ears();
  #pass = null; // {url, token, room, until}
  #room = null;
  #isIn = false; // joined, and the microphone is in
  #isAway = false; // LiveKit is mending it
  #isMuted = false;
  #isOver = false;
  #agents = new Set(); // whose sound there is
  #triesSince = null; // when it was first tried to join, or to come back
  #tries = 0;
  #timers = new Map();
  #stats = { sent: 0, received: 0, lost: 0, concealed: 0 };

  static async open(microphone, handlers) {
    try {
      // As large as all the rest of the page: loaded where it is needed.
      await import("./vendor/livekit-client/livekit-client.umd.js");
    } catch (error) {
      throw new AudioProblem("A part of this page could not be loaded. Reload it, then start again.", { cause: error });
    }
    if (!globalThis.LivekitClient.isBrowserSupported()) {
      throw new AudioProblem("This browser is too old for live audio. Please update it.");
    }
    globalThis.LivekitClient.setLogLevel("silent"); // its errors come here too, and its log would hold addresses with tokens
    return new RoomMedia(globalThis.LivekitClient, microphone, handlers);
  }

  constructor(kit, microphone, handlers) {
    this.#kit = kit;
    this.#microphone = microphone;
    this.#handlers = handlers;
    this.#ears.listen("mine", microphone);
    this.#every("levels", LEVEL_MS, () => this.#tellLevels());
    this.#every("stats", LOOK_MS, () => this.#look());
  }

  get isConnected() {
    return this.#isIn && !this.#isAway;
  }

  begin({ livekit }) {
    this.#pass = { ...livekit, until: performance.now() + PASS_MS };
    if (!this.isConnected) this.#join();
  }

  hear() {} // nothing comes that way

  mute(isMuted) {
    this.#isMuted = isMuted;
    for (const track of this.#microphone.getAudioTracks()) track.enabled = !isMuted;
    this.#applyMute();
  }

  facts() {
    const { sent, received, lost, concealed } = this.#stats;
    return {
      audio: `opus over WebRTC, room ${this.#pass?.room ?? "–"}`,
      traffic: `${sent} packets sent, ${received} received, ${lost} lost`,
      gaps: concealed,
    };
  }

  close() {
    this.#isOver = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#leave();
    this.#ears.close();
    closeMicrophone(this.#microphone);
  }

  // --- joining ---------------------------------------------------------------------------------------------------------------

  /** Join with the newest pass, in place of whatever room object there was. */
  async #join() {
    this.#cancel("again");
    this.#leave();
    this.#triesSince ??= performance.now();
    const { url, token } = this.#pass;
    const room = new this.#kit.Room({
      adaptiveStream: false,
      dynacast: false,
      stopLocalTrackOnUnpublish: false,
      reconnectPolicy: {
        nextRetryDelayInMs: ({ retryCount, elapsedMs }) =>
          elapsedMs > MEND_MS ? null : Math.min(delayMs(retryCount), MOST_MEND_DELAY_MS),
      },
    });
    this.#room = room;
    const isStale = () => this.#isOver || this.#room !== room;
    this.#listen(room);
    try {
      await room.connect(url, token, { maxRetries: 0, websocketTimeout: JOIN_MS, peerConnectionTimeout: JOIN_MS });
      if (isStale()) return this.#discard(room);
      const [track] = this.#microphone.getAudioTracks();
      await room.localParticipant.publishTrack(track, { source: this.#kit.Track.Source.Microphone });
      if (isStale()) return this.#discard(room);
    } catch {
      if (!isStale()) this.#tryAgain(); // also where it was lost between the two
      return undefined;
    }
    this.#isIn = true;
    return this.#arrived();
  }

  #arrived() {
    this.#isAway = false;
    this.#triesSince = null;
    this.#tries = 0;
    this.#cancel("word");
    this.#applyMute();
    if (this.#agents.size > 0) this.#handlers.agent(true); // mended, and nobody left meanwhile
    this.#handlers.connected();
    if (!this.#room.canPlaybackAudio) this.#askToPlay();
  }

  #tryAgain() {
    const now = performance.now();
    this.#isIn = false;
    this.#triesSince ??= now;
    if (now - this.#triesSince > GIVE_UP_MS) {
      this.#handlers.failed("The media server could not be reached. The call is over.");
      return;
    }
    const hasPass = now < this.#pass.until;
    this.#after("again", delayMs(this.#tries), () => (hasPass ? this.#join() : this.#handlers.wantsPass()));
    this.#tries += 1;
  }

  #leave() {
    const room = this.#room;
    this.#room = null;
    this.#isIn = this.#isAway = false;
    if (room) this.#discard(room);
  }

  #discard(room) {
    room.removeAllListeners();
    this.#ears.forget("theirs");
    this.#agents.clear();
    // The microphone stays, for the next room. What fails here has nobody left to be told.
    room.disconnect(false).catch(() => undefined);
  }

  // --- what the room tells -----------------------------------------------------------------------------------------------------

  #listen(room) {
    const { RoomEvent, Track } = this.#kit;
    const away = () => {
      if (!this.#isIn || this.#isAway) return;
      this.#isAway = true;
      this.#triesSince = performance.now();
      this.#handlers.lost();
    };
    room.on(RoomEvent.Reconnecting, away);
    room.on(RoomEvent.SignalReconnecting, away);
    room.on(RoomEvent.Reconnected, () => this.#isAway && this.#arrived());
    room.on(RoomEvent.Disconnected, (reason) => this.#isIn && this.#gone(reason));
    room.on(RoomEvent.AudioPlaybackStatusChanged, () => room.canPlaybackAudio || this.#askToPlay());
    room.on(RoomEvent.TrackSubscribed, (track, _publication, { sid }) => {
      if (track.kind !== Track.Kind.Audio) return;
      track.attach(); // plays it; WebAudio would hear nothing without
      this.#ears.listen("theirs", new MediaStream([track.mediaStreamTrack]));
      this.#agents.add(sid);
      this.#handlers.agent(true);
    });
    room.on(RoomEvent.TrackUnsubscribed, (track, _publication, { sid }) => {
      for (const element of track.detach()) element.remove();
      if (this.#agents.delete(sid) && this.#agents.size === 0) {
        this.#ears.forget("theirs");
        if (this.isConnected) this.#handlers.agent(false);
      }
    });
  }

  /** The room is lost for good: somebody ended the session, took it over, or LiveKit could not mend it. */
  #gone(reason) {
    const { DisconnectReason } = this.#kit;
    const wasAway = this.#isAway;
    this.#isIn = this.#isAway = false;
    if (reason === DisconnectReason.DUPLICATE_IDENTITY) {
      this.#after("word", WORD_MS, () => this.#handlers.taken());
      return;
    }
    const isEnd = reason === DisconnectReason.ROOM_DELETED || reason === DisconnectReason.PARTICIPANT_REMOVED;
    this.#after("word", isEnd ? WORD_MS : 0, () => {
      if (!wasAway) this.#handlers.lost();
      this.#tryAgain();
    });
  }

  #askToPlay() {
    this.#handlers.problem("The browser holds the sound back: press any key, or click anywhere on the page.");
    const start = () => this.#room?.startAudio();
    addEventListener("pointerdown", start, { once: true });
    addEventListener("keydown", start, { once: true });
  }

  // --- what is shown -----------------------------------------------------------------------------------------------------------

  #applyMute() {
    for (const { track } of this.#room?.localParticipant.audioTrackPublications.values() ?? []) {
      if (track && track.isMuted !== this.#isMuted) this.#isMuted ? track.mute() : track.unmute();
    }
  }

  #tellLevels() {
    this.#handlers.mine(this.isConnected && !this.#isMuted ? this.#ears.level("mine") : 0);
    this.#handlers.theirs(this.isConnected ? this.#ears.level("theirs") : 0);
  }

  async #look() {
    const room = this.#room;
    if (!this.isConnected) return;
    const local = [...room.localParticipant.audioTrackPublications.values()];
    const remote = [...room.remoteParticipants.values()].flatMap((each) => [...each.audioTrackPublications.values()]);
    const tracks = [...local, ...remote].map(({ track }) => track).filter(Boolean);
    const reports = await Promise.all(tracks.map((track) => track.getRTCStatsReport()));
    if (this.#isOver || this.#room !== room) return;
    const all = reports.flatMap((report) => (report ? [...report.values()] : []));
    const sum = (type, name) => all.reduce((total, each) => total + (each.type === type ? (each[name] ?? 0) : 0), 0);
    this.#stats = {
      sent: sum("outbound-rtp", "packetsSent"),
      received: sum("inbound-rtp", "packetsReceived"),
      lost: sum("inbound-rtp", "packetsLost"),
      concealed: sum("inbound-rtp", "concealmentEvents"),
    };
    const pair = all.find((each) => each.type === "candidate-pair" && each.nominated && each.currentRoundTripTime !== undefined);
    if (pair) this.#handlers.roundTrip(pair.currentRoundTripTime * 1000);
  }

  // --- timers ------------------------------------------------------------------------------------------------------------------

  #after(name, ms, then) {
    this.#cancel(name);
    this.#timers.set(
      name,
      setTimeout(() => this.#isOver || then(), ms),
    );
  }

  #every(name, ms, then) {
    this.#timers.set(name, setInterval(then, ms));
  }

  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

/** How loud it is, on either side; plays nothing. */
class Ears {
  #context = new AudioContext();
  #nodes = new Map();
  #samples = new Float32Array(1024);

  listen(name, stream) {
    this.forget(name);
    const source = this.#context.createMediaStreamSource(stream);
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = this.#samples.length;
    source.connect(analyser);
    this.#nodes.set(name, { source, analyser });
  }

  /** 0..1, of the last 20 ms or so. */
  level(name) {
    const node = this.#nodes.get(name);
    if (!node) return 0;
    node.analyser.getFloatTimeDomainData(this.#samples);
    return Math.sqrt(this.#samples.reduce((sum, sample) => sum + sample * sample, 0) / this.#samples.length);
  }

  forget(name) {
    this.#nodes.get(name)?.source.disconnect();
    this.#nodes.delete(name);
  }

  close() {
    for (const name of [...this.#nodes.keys()]) this.forget(name);
    this.#context.close();
  }
}
