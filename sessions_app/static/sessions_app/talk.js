// The talk page: one button, one call at a time.
import { Call } from "./call.js";
import { choice } from "./choices.js";
import * as page from "./page.js";

const reasons = JSON.parse(document.getElementById("reasons").textContent);
const raw = new URLSearchParams(location.search).get("raw") === "1";
let current = null;

function press() {
  if (current) {
    current.hangUp();
    return;
  }
  const ended = () => {
    current = null;
  };
  current = new Call({ ...choice(), raw, reasons, ended });
  current.begin();
}

page.begin({ press, mute: () => current?.toggleMute() });
// A client's own close with 1000 is a hang-up: the slot is free at once instead of after the grace.
addEventListener("pagehide", () => current?.leave());
