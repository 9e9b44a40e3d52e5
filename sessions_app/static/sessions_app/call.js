// One call: the microphone, the pass, the session and the way of its sound, and what the page shows of them meanwhile.
import { AudioProblem, closeMicrophone, openMicrophone } from "./audio.js";
import * as page from "./page.js";
import { RoomMedia } from "./room-media.js";
import { SocketMedia } from "./socket-media.js";
import { VoiceSession } from "./voice-session.js";
import { clock, closeWords, limitWords, lostWords, queueWords, seconds, span } from "./words.js";

const MEDIA = { websocket: SocketMedia, webrtc: RoomMedia };
const TICK_MS = 250;
const LIVE = "You are connected.";

/** What goes wrong before there is a call, as a sentence. */
class Refusal extends Error {}

async function fetchToken(body) {
  let answer;
  try {
    answer = await fetch(page.addresses.token, { method: "POST", body, credentials: "same-origin" });
  } catch {
    throw new Refusal("The server could not be reached.");
  }
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  const content = isJson ? await answer.json() : {};
  if (answer.ok && content.token) return content;
  if (answer.status === 403) throw new Refusal(content.message ?? "This page is out of date. Reload it, then start again.");
  throw new Refusal(content.message ?? "The call could not be opened. Please try again soon.");
}

export class Call {
  #form;
  #wish;
  #raw;
  #reasons;
  #ended;
  #over = false;
  #timer = null;
  #session = null;
  #media = null;
  #isMuted = false;
  #began = null; // when there was first a call
  #lostAt = null; // when sound passed last, or when the queue was lost sight of
  #longest = null;
  #hasAgent = null; // null: nobody can tell
  #losses = { count: 0, ms: 0 };

  /**
   * @param {{form: FormData, wish: object, raw: boolean, reasons: object, ended: () => void}} given `form`: what the pass is asked for with;
   *   `wish`: what session.start asks for; `raw`: without the browser's echo, noise and gain processing; `reasons`: from a reason to its
   *   sentence
   */
  constructor({ form, wish, raw, reasons, ended }) {
    this.#form = form;
    this.#wish = wish;
    this.#raw = raw;
    this.#reasons = reasons;
    this.#ended = ended;
  }

  async begin() {
    try {
      page.showMuted(false);
      page.show("microphone", "Waiting for the microphone…");
      // First of all, so that no slot is held while somebody looks at the browser's question.
      const microphone = await openMicrophone(this.#raw);
      if (this.#over) return closeMicrophone(microphone);
      await this.#connect(microphone);
    } catch (error) {
      if (this.#over) return undefined;
      const known = error instanceof AudioProblem || error instanceof Refusal;
      this.#finish("refused", known ? error.message : "Something went wrong in this page. Reload it, then start again.");
      if (!known) throw error;
    }
    return undefined;
  }

  async #connect(microphone) {
    page.show("connecting", "Connecting…");
    try {
      this.#media = await this.#openMedia(microphone);
    } catch (error) {
      closeMicrophone(microphone);
      throw error;
    }
    if (this.#over) return void this.#media.close();
    for (const track of microphone.getTracks()) track.onended = () => this.#lostMicrophone();
    const pass = await fetchToken(this.#form);
    if (this.#over) return undefined;
    const handlers = {
      queued: (message) => this.#queued(message),
      live: (message) => this.#live(message),
      lost: (stage) => this.#lostSession(stage),
      draining: ({ deadline_s: left }) => page.hint(`The service goes down for maintenance: please finish within ${span(left)}.`),
      audio: (frame) => this.#media.hear(frame),
      problem: ({ message }) => page.hint(message),
      roundTrip: (ms) => this.#media.isIndependent || page.roundTrip(ms),
      closed: (close) => this.#closed(close),
      holds: () => this.#media.isIndependent && this.#media.isConnected,
    };
    this.#session = new VoiceSession(pass.ws_url, pass.token, handlers, this.#wish);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    return undefined;
  }

  #openMedia(microphone) {
    const kind = MEDIA[this.#wish.transport ?? "websocket"];
    const handlers = {
      mine: (level) => page.meter("mine", level),
      theirs: (level) => page.meter("theirs", level),
      connected: () => this.#connected(),
      lost: () => this.#lostMedia(),
      failed: (sentence) => this.#fail(sentence),
      taken: () => this.#session.abandon(4409),
      wantsPass: () => this.#session.renew(),
      roundTrip: (ms) => page.roundTrip(ms),
      problem: (sentence) => page.hint(sentence),
      agent: (isThere) => {
        this.#hasAgent = isThere;
        if (this.#media.isConnected) this.#showLive();
      },
    };
    return kind.open(microphone, handlers, page.addresses);
  }

  // --- the way in ----------------------------------------------------------------------------------------------------------------

  #queued(message) {
    this.#lostAt = null;
    const { expires_in_s: left } = message;
    page.show("queued", queueWords(message), left == null ? [] : [`You may wait for ${span(left)} more.`]);
  }

  #live(message) {
    page.fact("session", message.session_id);
    page.fact("backend", `${message.backend} (${message.pipeline})`);
    this.#longest = message.limits?.max_duration_s ?? null;
    if (this.#began === null) page.show("connecting", "Joining the call…");
    const wasConnected = this.#media.isConnected;
    this.#media.begin(message, this.#session);
    if (wasConnected && this.#media.isIndependent) this.#connected();
  }

  #connected() {
    if (this.#over) return;
    const now = performance.now();
    const awayMs = this.#lostAt === null ? null : now - this.#lostAt;
    this.#lostAt = null;
    this.#tick();
    if (this.#began !== null && awayMs !== null) {
      this.#losses.count += 1;
      this.#losses.ms += awayMs;
      const times = this.#losses.count === 1 ? "once" : `${this.#losses.count} times`;
      page.fact("losses", `${times}, ${seconds(this.#losses.ms)} in all`);
      this.#showLive(`Back after ${seconds(awayMs)}.`);
    } else {
      this.#began ??= now;
      this.#showLive();
    }
    this.#tick();
  }

  #showLive(...more) {
    if (this.#isMuted) page.show("live", LIVE, ["Your microphone is muted.", ...more]);
    else if (this.#media.isIndependent && this.#hasAgent === null) page.show("live", LIVE, ["Waiting for the agent…", ...more]);
    else if (this.#hasAgent === false) page.show("live", LIVE, ["The agent has left. Waiting for it to come back…", ...more]);
    else if (more.length > 0) page.show("live", LIVE, more);
    else page.show("live", `${LIVE} Say something.`, this.#longest ? [`A call may last ${span(this.#longest)}.`] : []);
  }

  // --- losses ----------------------------------------------------------------------------------------------------------------------

  #lostSession(stage) {
    if (stage === "live" && this.#media.isIndependent && this.#media.isConnected) {
      // The sound has a way of its own.
      this.#showLive("The service does not answer for the moment. You can go on talking.");
      return;
    }
    if (!this.#media.isIndependent) page.roundTrip(null);
    this.#away(stage);
  }

  #lostMedia() {
    page.roundTrip(null);
    this.#hasAgent = null;
    this.#away("live");
  }

  #away(stage) {
    this.#lostAt ??= performance.now();
    const hint = stage === "live" ? "What you say meanwhile is not heard." : "You need not do anything.";
    page.show("reconnecting", lostWords(stage), [navigator.onLine ? hint : "This device is offline."]);
    if (stage !== "live") page.nameButton(stage === "queued" ? "queued" : "connecting");
    this.#tick();
  }

  #tick() {
    const now = performance.now();
    if (this.#lostAt !== null) page.count((now - this.#lostAt) / 1000);
    if (this.#began === null) return;
    page.elapsed(clock((now - this.#began) / 1000));
    const { audio, traffic, gaps } = this.#media.facts(this.#session);
    page.fact("audio", audio);
    page.fact("traffic", traffic);
    page.fact("gaps", gaps);
  }

  // --- what the person does ------------------------------------------------------------------------------------------------------

  toggleMute() {
    this.#isMuted = !this.#isMuted;
    this.#media?.mute(this.#isMuted);
    page.showMuted(this.#isMuted);
    if (this.#began !== null && this.#lostAt === null) this.#showLive();
  }

  hangUp() {
    if (this.#session) {
      page.show("ending", "Hanging up…");
      this.#session.stop();
    } else {
      this.#finish("over", "You cancelled the call.");
    }
  }

  leave() {
    this.#session?.leave();
  }

  // --- the end -------------------------------------------------------------------------------------------------------------------

  #lostMicrophone() {
    if (this.#over) return;
    this.#finish("refused", "The microphone was unplugged or taken away. The call is over.");
    this.#session?.stop();
  }

  /** No sound, and no hope of any: nobody hung up. */
  #fail(sentence) {
    this.#finish("refused", sentence);
    this.#session.abandon(1006);
  }

  #closed(close) {
    if (this.#over) return;
    const { code, explanation } = close;
    // Nothing went wrong: somebody hung up, or the call goes on elsewhere.
    const isEnd = explanation?.type === "session.ended";
    const fine = isEnd ? ["completed", "provider_ended"].includes(explanation.reason) : [1000, 4409].includes(code);
    const hints = limitWords(explanation?.limits);
    if (explanation?.retry_after_s) hints.push(`Try again in ${span(explanation.retry_after_s)}.`);
    if (explanation?.duration_ms) hints.push(`It lasted ${clock(explanation.duration_ms / 1000)}.`);
    this.#finish(fine ? "over" : "refused", closeWords(close, this.#reasons), hints);
  }

  #finish(state, sentence, hints = []) {
    this.#over = true;
    clearInterval(this.#timer);
    this.#media?.close();
    page.meter("mine", 0);
    page.meter("theirs", 0);
    page.roundTrip(null);
    page.show(state, sentence, hints);
    this.#ended();
  }
}
