// The cards this page knows: an old one never replaces a newer one.

export class Cards {
  constructor(cards = []) {
    this.byId = new Map();
    for (const card of cards) this.byId.set(card.id, card);
  }

  /** Takes a card in; false when it is older than what is known. */
  put(card) {
    const known = this.byId.get(card.id);
    if (known && (card.version < known.version || Date.parse(card.updated_at) < Date.parse(known.updated_at))) return false;
    this.byId.set(card.id, card);
    return true;
  }

  /** Takes in all open cards there are: what is not among them is no longer open. */
  replaceOpen(cards) {
    const ids = new Set(cards.map((card) => card.id));
    for (const id of this.byId.keys()) if (!ids.has(id)) this.byId.delete(id);
    for (const card of cards) this.put(card);
  }

  open() {
    return [...this.byId.values()]
      .filter((card) => !isEnding(card))
      .sort((a, b) => Date.parse(a.requested_at) - Date.parse(b.requested_at));
  }
}

/** Closing or closed: nobody can work on it any more. */
export function isEnding(card) {
  return card.state === "closing" || card.state === "closed";
}

/** Nobody has claimed it yet. */
export function isWaiting(card) {
  return card.operator === null && !isEnding(card);
}

export function isMine(card, me) {
  return card.operator !== null && card.operator.id === me.id;
}

export function may(card, verb) {
  return card.may.includes(verb);
}
