// The talk page: one button, one call at a time. Glue between the page, the sound and the session.
import { AudioProblem, Sound, closeMicrophone, openMicrophone } from "./audio.js";
import { VoiceSession } from "./voice-session.js";
import { clock, closeWords, limitWords, lostWords, queueWords, seconds, span } from "./words.js";

const root = document.getElementById("talk");
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const page = {
  button: part("button"),
  status: part("status"),
  hints: part("hints"),
  tenant: part("tenant"),
  elapsed: part("elapsed"),
  state: part("state"),
  roundTrip: part("round-trip"),
  facts: part("facts"),
  meters: { mine: part("meter-mine"), theirs: part("meter-theirs") },
};
const reasons = JSON.parse(document.getElementById("reasons").textContent);
const raw = new URLSearchParams(location.search).get("raw") === "1";
const BUTTON_WORDS = {
  microphone: "Cancel",
  connecting: "Cancel",
  queued: "Stop waiting",
  live: "Hang up",
  reconnecting: "Hang up",
  ending: "Hanging up…",
};
// The words of the history, where it has one.
const STATE_WORDS = { connecting: "starting", queued: "queued", live: "active", reconnecting: "reconnecting", ending: "active" };
const TICK_MS = 250;

/** What goes wrong before there is a call, as a sentence. */
class Refusal extends Error {}

/** @param {"idle"|"microphone"|"connecting"|"queued"|"live"|"reconnecting"|"ending"|"over"|"refused"} state */
function show(state, sentence, hints = []) {
  root.dataset.state = state;
  page.status.textContent = sentence;
  page.hints.replaceChildren(
    ...hints.map((hint) => {
      const item = document.createElement("li");
      item.textContent = hint;
      return item;
    }),
  );
  page.button.textContent = BUTTON_WORDS[state] ?? "Start talking";
  page.button.disabled = state === "ending";
  if (page.tenant) page.tenant.disabled = state in BUTTON_WORDS;
  const word = STATE_WORDS[state];
  page.state.textContent = word ?? "–";
  page.state.className = word ? `badge badge-${word}` : "";
}

/** Put running seconds behind the sentence, for the eyes only: read aloud each second they would drown it. */
function count(elapsed) {
  let place = page.status.querySelector("span");
  if (!place) {
    place = document.createElement("span");
    place.ariaHidden = "true";
    page.status.append(" ", place);
  }
  place.textContent = `(${Math.floor(elapsed)} s)`;
}

function fact(name, value) {
  const place = page.facts.querySelector(`[data-fact="${name}"]`);
  place.textContent = value;
}

/** Speech is between -60 and 0 dB; the bar shows decibels, as ears hear. */
function meter(bar, level) {
  const share = level > 0 ? Math.max(0, Math.min(1, 1 + (20 * Math.log10(level)) / 60)) : 0;
  bar.style.transform = `scaleX(${share.toFixed(3)})`;
}

async function fetchToken() {
  const body = new FormData(part("form"));
  let answer;
  try {
    answer = await fetch(root.dataset.tokenUrl, { method: "POST", body, credentials: "same-origin" });
  } catch {
    throw new Refusal("The server could not be reached.");
  }
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  const content = isJson ? await answer.json() : {};
  if (answer.ok && content.token) return content;
  if (answer.status === 403) throw new Refusal(content.message ?? "This page is out of date. Reload it, then start again.");
  throw new Refusal(content.message ?? "The call could not be opened. Please try again soon.");
}

class Call {
  #over = false;
  #timer = null;
  #session = null;
  #sound = null;
  #began = null; // when there was first a call
  #lostAt = null;
  #losses = { count: 0, ms: 0 };

  async begin() {
    try {
      show("microphone", "Waiting for the microphone…");
      // First of all, so that no slot is held while somebody looks at the browser's question.
      const microphone = await openMicrophone(raw);
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
    show("connecting", "Connecting…");
    try {
      this.#sound = await Sound.open(microphone, { capture: root.dataset.captureUrl, playback: root.dataset.playbackUrl });
    } catch (error) {
      closeMicrophone(microphone);
      throw error;
    }
    for (const track of microphone.getTracks()) track.onended = () => this.#lostMicrophone();
    const pass = await fetchToken();
    if (this.#over) return void this.#sound.close();
    this.#session = new VoiceSession(pass.ws_url, pass.token, {
      queued: (message) => this.#queued(message),
      live: (message, awayMs) => this.#live(message, awayMs),
      lost: (stage) => this.#lost(stage),
      draining: (message) => this.#draining(message),
      audio: (frame) => this.#sound.play(frame),
      problem: (message) => show(root.dataset.state, page.status.textContent, [message.message]),
      roundTrip: (ms) => {
        page.roundTrip.textContent = ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
      },
      closed: (close) => this.#closed(close),
    });
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    return undefined;
  }

  #queued(message) {
    this.#lostAt = null;
    const { expires_in_s: left } = message;
    show("queued", queueWords(message), left == null ? [] : [`You may wait for ${span(left)} more.`]);
  }

  #live(message, awayMs) {
    fact("session", message.session_id);
    fact("backend", `${message.backend} (${message.pipeline})`);
    fact("audio", `${message.audio.encoding}, ${message.audio.sample_rate} Hz, ${message.audio.frame_ms} ms`);
    this.#sound.start(message.audio, {
      frame: (frame, level) => meter(page.meters.mine, this.#session.sendAudio(frame) ? level : 0),
      heard: (level, dropouts) => {
        meter(page.meters.theirs, level);
        fact("dropouts", dropouts);
      },
    });
    const isBack = this.#began !== null && awayMs !== null;
    this.#began ??= performance.now();
    this.#lostAt = null;
    this.#tick();
    if (isBack) {
      this.#losses.count += 1;
      this.#losses.ms += awayMs;
      fact("losses", `${this.#losses.count === 1 ? "once" : `${this.#losses.count} times`}, ${seconds(this.#losses.ms)} in all`);
      show("live", "You are connected.", [`Back after ${seconds(awayMs)}.`]);
    } else {
      const longest = message.limits?.max_duration_s;
      show("live", "You are connected. Say something.", longest ? [`A call may last ${span(longest)}.`] : []);
    }
  }

  #draining({ deadline_s: left }) {
    show("live", "You are connected.", [`The service goes down for maintenance: please finish within ${span(left)}.`]);
  }

  #lost(stage) {
    this.#lostAt = performance.now();
    page.roundTrip.textContent = "–";
    const hint = stage === "live" ? "What you say meanwhile is not heard." : "You need not do anything.";
    show("reconnecting", lostWords(stage), [navigator.onLine ? hint : "This device is offline."]);
    if (stage !== "live") page.button.textContent = BUTTON_WORDS[stage === "queued" ? "queued" : "connecting"];
    this.#tick();
  }

  #tick() {
    const now = performance.now();
    if (this.#lostAt !== null) count((now - this.#lostAt) / 1000);
    if (this.#began === null) return;
    page.elapsed.textContent = clock((now - this.#began) / 1000);
    fact("frames", `${this.#session.sent} sent, ${this.#session.received} received, ${this.#session.dropped} dropped`);
  }

  hangUp() {
    if (this.#session) {
      show("ending", "Hanging up…");
      this.#session.stop();
    } else {
      this.#finish("over", "You cancelled the call.");
    }
  }

  leave() {
    this.#session?.leave();
  }

  #lostMicrophone() {
    if (this.#over) return;
    this.#finish("refused", "The microphone was unplugged or taken away. The call is over.");
    this.#session?.stop();
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
    this.#finish(fine ? "over" : "refused", closeWords(close, reasons), hints);
  }

  #finish(state, sentence, hints = []) {
    this.#over = true;
    clearInterval(this.#timer);
    this.#sound?.close();
    for (const bar of Object.values(page.meters)) meter(bar, 0);
    page.roundTrip.textContent = "–";
    show(state, sentence, hints);
    current = null;
  }
}

let current = null;

page.button.addEventListener("click", () => {
  if (current) {
    current.hangUp();
  } else {
    current = new Call();
    current.begin();
  }
});
// A client's own close with 1000 is a hang-up: the slot is free at once instead of after the grace.
addEventListener("pagehide", () => current?.leave());
page.button.disabled = false;
