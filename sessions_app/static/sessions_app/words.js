// Plain words for what the server says. Sentences for reasons come with the page (one table, the server's); these are the rest.

// Where a close came without an explanation.
const CLOSE_WORDS = {
  1000: "The call is over.",
  1001: "The server ended the call.",
  1006: "The connection was lost.",
  1009: "The connection was closed: a message was too large.",
  1011: "Something went wrong on the server.",
  1012: "The server is being restarted. Please start again.",
  4000: "The call ended: it was quiet for too long, or it reached its longest allowed time.",
  4012: "This server is going down. Please start again.",
  4013: "The service is busy right now. Please try again in a moment.",
  4400: "The connection was closed: this page and the server did not understand each other. Reload the page.",
  4401: "The call could not be opened: your pass was not accepted. Please start again.",
  4403: "You may not make this call.",
  4408: "Nothing became free in the time that you may wait.",
  4409: "This call goes on in another window.",
  4410: "An operator ended the call.",
  4429: "All lines are in use right now. Please try again in a moment.",
  4503: "The voice service is not available right now. Please try again soon.",
};

const SCOPE_WORDS = { user: "You", tenant: "Your organisation", backend: "The voice service", platform: "The whole service" };

/** Sentence for a close; `reasons` maps a reason to its sentence. */
export function closeWords({ code, explanation, wasStarted }, reasons) {
  const said = explanation?.message || reasons[explanation?.code ?? explanation?.reason];
  if (said) return said;
  if (code === 1006 && !wasStarted) return "The server could not be reached.";
  return CLOSE_WORDS[code] ?? `The connection was closed (${code}).`;
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
