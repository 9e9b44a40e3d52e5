// When to come back after a lost connection, and when not to. Nothing here has a state, so all of it can be looked at by itself.

const FIRST_MS = 250;
const MOST_MS = 4000;

// The connection was lost (10xx), or this process goes down or cannot answer: the session may well be there still.
// Every other code is final.
const LOST = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 4012, 4013]);

/**
 * Time to wait before a try: it doubles from try to try, and any part of it may be left out ("full jitter"), so that those whom one server
 * lost do not all knock on the next one at the same moment.
 * @param {number} tries how many there were already
 * @param {number} [share] 0..1, at random
 */
export function delayMs(tries, share = Math.random()) {
  return share * Math.min(MOST_MS, FIRST_MS * 2 ** tries);
}

/**
 * Whether to connect again after this close.
 * @param {{code: number, explanation: object|null}} close `explanation` is the server's session.rejected or session.ended, or null
 * @param {boolean} hasPlace whether there is a session or a place in the queue to come back to, instead of a first attempt
 */
export function mayComeBack({ code, explanation }, hasPlace) {
  if (explanation?.type === "session.ended") return false;
  if (explanation?.type === "session.rejected") {
    if (explanation.code === "node_draining") return true;
    return hasPlace && (explanation.code === "unavailable" || explanation.code === "overloaded");
  }
  return LOST.has(code);
}
