// The talk page: one button, one call at a time. Glue between the page, the sound and the session.
import { AudioProblem, Sound, closeMicrophone, openMicrophone } from "./audio.js";
import { VoiceSession } from "./voice-session.js";
import { clock, closeWords, limitWords, span } from "./words.js";

const root = document.getElementById("talk");
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const page = {
  button: part("button"),
  status: part("status"),
  hints: part("hints"),
  tenant: part("tenant"),
  elapsed: part("elapsed"),
  roundTrip: part("round-trip"),
  facts: part("facts"),
  meters: { mine: part("meter-mine"), theirs: part("meter-theirs") },
};
const reasons = JSON.parse(document.getElementById("reasons").textContent);
const raw = new URLSearchParams(location.search).get("raw") === "1";
const BUTTON_WORDS = { microphone: "Cancel", connecting: "Cancel", queued: "Stop waiting", live: "Hang up", ending: "Hanging up…" };

/** What goes wrong before there is a call, as a sentence. */
class Refusal extends Error {}

/** @param {"idle"|"microphone"|"connecting"|"queued"|"live"|"ending"|"over"|"refused"} state */
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
      started: (message) => this.#started(message),
      draining: (message) => show("live", "You are connected.", [`The service goes down for maintenance: please finish within ${span(message.deadline_s)}.`]),
      audio: (frame) => this.#sound.play(frame),
      problem: (message) => show(root.dataset.state, page.status.textContent, [message.message]),
      roundTrip: (ms) => {
        page.roundTrip.textContent = ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
      },
      closed: (close) => this.#closed(close),
    });
    return undefined;
  }

  #queued({ position, estimated_wait_s: wait }) {
    const place = position === 1 ? "You are next." : `You are number ${position} in line.`;
    show("queued", place, [wait == null ? "How long it takes is not known yet." : `It takes about ${span(wait)}.`]);
  }

  #started(message) {
    fact("session", message.session_id);
    fact("backend", `${message.backend} (${message.pipeline})`);
    fact("audio", `${message.audio.encoding}, ${message.audio.sample_rate} Hz, ${message.audio.frame_ms} ms`);
    this.#sound.start(message.audio, {
      frame: (frame, level) => {
        this.#session.sendAudio(frame);
        meter(page.meters.mine, level);
      },
      heard: (level, dropouts) => {
        meter(page.meters.theirs, level);
        fact("dropouts", dropouts);
      },
    });
    const began = performance.now();
    const longest = message.limits?.max_duration_s;
    const tick = () => {
      const seconds = (performance.now() - began) / 1000;
      page.elapsed.textContent = clock(seconds);
      fact("frames", `${this.#session.sent} sent, ${this.#session.received} received, ${this.#session.dropped} dropped`);
    };
    tick();
    this.#timer = setInterval(tick, 250);
    show("live", "You are connected. Say something.", longest ? [`A call may last ${span(longest)}.`] : []);
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
    this.#session?.stop();
    this.#finish("refused", "The microphone was unplugged or taken away. The call is over.");
  }

  #closed(close) {
    if (this.#over) return;
    const { explanation } = close;
    const fine = explanation?.type === "session.ended" ? ["completed", "provider_ended"].includes(explanation.reason) : close.code === 1000;
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
