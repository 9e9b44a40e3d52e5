// Plain words for what the server says. Sentences for reasons come with the page (one table, the server's); these are the rest.

// Where a close came without an explanation.
const CLOSE_WORDS = {
  1000: "The call is over.",
  1001: "The server ended the call.",
  1005: "The connection was closed without a reason.",
  1006: "The connection was lost and did not come back. The call is over.",
  1009: "The connection was closed: a message was too large.",
  1011: "Something went wrong on the server.",
  1012: "The server is being restarted. Please start again.",
  4000: "The call ended: it was quiet for too long, or it reached its longest allowed time.",
  4012: "The service goes down for maintenance. Please start again soon.",
  4013: "The service is busy right now. Please try again in a moment.",
  4400: "The connection was closed: this page and the server did not understand each other. Reload the page.",
  4401: "The call could not be opened: your pass was not accepted. Please start again.",
  4403: "You may not make this call.",
  4408: "Nothing became free in the time that you may wait.",
  4404: "The voice service was not found at its address. Reload the page.",
  4409: "This call goes on somewhere else: a newer connection took its place here.",
  4410: "An operator ended the call.",
  4429: "All lines are in use right now. Please try again in a moment.",
  4503: "The voice service is not available right now. Please try again soon.",
};

const SCOPE_WORDS = { user: "You", tenant: "Your organisation", backend: "The voice service", platform: "The whole service" };

// Where it depends on how far the call had come. What the server says of a refused credential is meant for programmers.
const STAGE_WORDS = {
  new: { 1000: "You cancelled the call.", 1006: "The server could not be reached." },
  queued: {
    1000: "You left the queue.",
    1006: "The connection was lost and did not come back, and your place in the queue with it.",
    4401: "Your place in the queue was given up while the connection was lost. Please start again.",
  },
  live: { 4401: "The call ended while the connection was lost." },
};
const STOPPED_AWAY = "You hung up while the connection was lost. The call ends by itself shortly.";

/**
 * Sentence for how it ended.
 * @param {{code: number, explanation: object|null, stage: string, isAway: boolean}} close as VoiceSession tells it
 * @param {object} reasons the server's: from a reason to its sentence
 */
export function closeWords({ code, explanation, stage, isAway }, reasons) {
  if (isAway && stage === "live" && code === 1000) return STOPPED_AWAY;
  const ofStage = STAGE_WORDS[stage]?.[code];
  const said = explanation?.message || reasons[explanation?.code ?? explanation?.reason];
  if (said && code !== 4401) return said;
  return ofStage ?? CLOSE_WORDS[code] ?? `The connection was closed (${code}).`;
}

const LOST_WORDS = {
  new: "The server does not answer, trying again…",
  queued: "Connection lost, getting back to your place…",
  live: "Connection lost, reconnecting…",
};

/** What is told while the connection is lost; the seconds are counted up behind it. */
export function lostWords(stage) {
  return LOST_WORDS[stage];
}

/** 3 and 40 as "You are number 3 in the queue, about 40 s." */
export function queueWords({ position, estimated_wait_s: wait }) {
  const place = position === 1 ? "You are next in the queue" : `You are number ${position} in the queue`;
  return wait == null ? `${place}.` : `${place}, about ${span(wait)}.`;
}

/** Sentences for a refusal's limits, for those that have numbers. */
export function limitWords(limits) {
  return (limits ?? [])
    .filter(({ used, limit }) => Number.isInteger(used) && Number.isInteger(limit))
    .map(({ scope, used, limit }) => `${SCOPE_WORDS[scope] ?? scope}: ${used} of ${limit} in use`);
}

/** 75 as "1:15", 3700 as "1:01:40". */
export function clock(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((part, index) => (index === 0 ? String(part) : String(part).padStart(2, "0"))).join(":");
}

/** 20 as "20 s", 90 as "2 minutes", 7200 as "2 hours". */
export function span(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return minutes === 1 ? "1 minute" : `${minutes} minutes`;
  return `${Math.round(minutes / 60)} hours`;
}

/** 2140 ms as "2.1 s". */
export function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}
