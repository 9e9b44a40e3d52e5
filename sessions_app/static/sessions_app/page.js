// What the talk page shows: its sentence, hints, buttons, readings and meters. Knows nothing of calls.

const root = document.getElementById("talk");
export const part = (name) => root.querySelector(`[data-part="${name}"]`);
const page = {
  button: part("button"),
  mute: part("mute"),
  status: part("status"),
  hints: part("hints"),
  choices: part("choices"),
  elapsed: part("elapsed"),
  state: part("state"),
  roundTrip: part("round-trip"),
  facts: part("facts"),
  meters: { mine: part("meter-mine"), theirs: part("meter-theirs") },
};
export const addresses = { token: root.dataset.tokenUrl, capture: root.dataset.captureUrl, playback: root.dataset.playbackUrl };

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

/** @param {"idle"|"microphone"|"connecting"|"queued"|"live"|"reconnecting"|"ending"|"over"|"refused"} state */
export function show(state, sentence, hints = []) {
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
  page.mute.hidden = !["live", "reconnecting"].includes(state);
  page.choices.disabled = state in BUTTON_WORDS;
  const word = STATE_WORDS[state];
  page.state.textContent = word ?? "–";
  page.state.className = word ? `badge badge-${word}` : "";
}

/** Change the hints and nothing else. */
export function hint(...hints) {
  show(root.dataset.state, page.status.textContent, hints);
}

/** Call the button what it does to a call that has come so far. */
export function nameButton(state) {
  page.button.textContent = BUTTON_WORDS[state];
}

export function showMuted(isMuted) {
  page.mute.ariaPressed = String(isMuted);
  page.mute.textContent = isMuted ? "Unmute" : "Mute";
}

/** Put running seconds behind the sentence, for the eyes only: read aloud each second they would drown it. */
export function count(elapsed) {
  let place = page.status.querySelector("span");
  if (!place) {
    place = document.createElement("span");
    place.ariaHidden = "true";
    page.status.append(" ", place);
  }
  place.textContent = `(${Math.floor(elapsed)} s)`;
}

export function fact(name, value) {
  const place = page.facts.querySelector(`[data-fact="${name}"]`);
  place.textContent = value;
}

export function elapsed(text) {
  page.elapsed.textContent = text;
}

/** @param {number|null} ms null: not known */
export function roundTrip(ms) {
  page.roundTrip.textContent = ms === null ? "–" : ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

/** Speech is between -60 and 0 dB; the bar shows decibels, as ears hear. @param {"mine"|"theirs"} name */
export function meter(name, level) {
  const share = level > 0 ? Math.max(0, Math.min(1, 1 + (20 * Math.log10(level)) / 60)) : 0;
  page.meters[name].style.transform = `scaleX(${share.toFixed(3)})`;
}

/** @param {{press: () => void, mute: () => void}} handlers */
export function begin({ press, mute }) {
  page.button.addEventListener("click", press);
  page.mute.addEventListener("click", mute);
  page.button.disabled = false;
}
