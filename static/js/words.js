// What the portal says, in one place.

const regions = (() => {
  try {
    return new Intl.DisplayNames("en", { type: "region" }); // within English words; times go by the person's own habit
  } catch {
    return null;
  }
})();

/** A country's name from its two letters. */
export function country(code) {
  try {
    return regions?.of(code) ?? code;
  } catch {
    return code;
  }
}

export function place(site) {
  return `${site.name}, ${site.city}, ${country(site.country)}`;
}

export function machineName(machine) {
  return machine.name ? `${machine.name} · ${machine.serial}` : machine.serial;
}

/** What the machine says is wrong; a press without a reason has words too. */
export function problemText(problem) {
  return problem.text || (problem.code ? `Fault ${problem.code}` : "Help was pressed");
}

export function initials(name) {
  const words = name.trim().split(/\s+/);
  return ((words[0]?.[0] ?? "") + (words.length > 1 ? words.at(-1)[0] : "")).toUpperCase() || "?";
}

export const ENDED = {
  resolved: "Resolved",
  not_resolved: "Not resolved",
  cancelled: "Cancelled at the machine",
  unanswered: "Nobody answered",
  machine_unreachable: "Machine out of reach",
  gateway_failed: "No gateway",
  credentials_refused: "Sign-in refused",
  forced: "Ended by a supervisor",
  machine_withdrawn: "Machine switched off",
};

/** How a rescue that ended ended. */
export function ending(card) {
  return ENDED[card.end_reason] ?? "Ended";
}

// Guacamole's status codes that end a join: for the others the page re-joins by itself.
export const STATUS = {
  CLIENT_UNAUTHORIZED: 769,
  SESSION_CONFLICT: 521,
  SESSION_TIMEOUT: 522,
  SESSION_CLOSED: 523,
  UPSTREAM_NOT_FOUND: 519,
};

const FINAL = new Set([STATUS.CLIENT_UNAUTHORIZED, STATUS.SESSION_TIMEOUT, STATUS.SESSION_CLOSED]);

export function isFinal(code) {
  return FINAL.has(code);
}

const SENTENCES = {
  256: "This browser asked for something that the server does not offer. Reload the page.",
  512: "The server had a fault. This page joins again by itself.",
  513: "Your connection was too slow for the picture, or the server is busy. This page joins again by itself.",
  514: "The machine's gateway did not answer in time. This page joins again by itself.",
  515: "The machine's gateway reported a fault. This page joins again by itself.",
  516: "The desktop has moved to another gateway. This page joins again by itself.",
  519: "The machine's desktop was lost and is being brought back. This page joins it again by itself.",
  520: "The server is restarting. This page joins again by itself.",
  521: "Who works on this desktop has changed. Joining again in your new part.",
  522: "Nothing happened here for a long time, so this screen was let go. The rescue goes on.",
  523: "This rescue has ended.",
  769: "You may no longer use this desktop. Ask your supervisor if that is a surprise.",
  771: "You may no longer use this desktop. Ask your supervisor if that is a surprise.",
  776: "Nothing was heard from this browser for a while. This page joins again by itself.",
  797: "Too many screens are open at once. Close one that you do not need.",
};

/** One sentence for the end of a join: the server's own when it gave one, else ours. */
export function statusSentence(status) {
  const message = (status.message ?? "").trim();
  const own = SENTENCES[status.code];
  // A bare number is the WebSocket's close reason, "Aborted. See logs." is guacd's; neither helps a person.
  if (message && !/^\d+$/.test(message) && !/see logs|server timeout|manually closed/i.test(message)) return message;
  return own ?? "The connection to the desktop was lost. This page joins again by itself.";
}

export const STEPS = [
  ["requested", "Requested"],
  ["gateway", "Gateway"],
  ["signing-in", "Signing in"],
  ["ready", "Screen ready"],
];
