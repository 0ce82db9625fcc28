// Who was asked to take a rescue, and who is next: one line that goes with the time.

import { duration, now, secondsSince } from "./times.js";

// Those who were asked within so short a time were asked together.
const TOGETHER_MS = 1500;
const NAMED = 3;

/** "Alice was asked 40 s ago; Bob is next, in 5 s."; the server's own sentence where nobody could be; "" without one. */
export function asking(answer, me) {
  if (!answer) return "";
  const people = (answer.people ?? []).filter((person) => person.reached !== "none");
  if (!people.length) return answer.sentence ?? "";
  const last = Math.max(...people.map((person) => Date.parse(person.at)));
  const together = people.filter((person) => last - Date.parse(person.at) < TOGETHER_MS);
  const asked = names(together, me);
  const was = together.length > 1 || asked === "You" ? "were" : "was";
  const said = `${asked} ${was} asked ${duration(secondsSince(new Date(last).toISOString()))} ago`;
  if (!answer.next) return `${said}.`;
  const left = answer.next_at ? Math.ceil((Date.parse(answer.next_at) - now()) / 1000) : 0;
  const next = answer.next === me.name ? "you" : answer.next;
  const are = next === "you" || next === "the supervisors" ? "are" : "is";
  return `${said}; ${next} ${are} next${left > 0 ? `, in ${duration(left)}` : ""}.`;
}

function names(people, me) {
  const mine = people.filter((person) => person.id === me.id).map(() => "You");
  const all = [...mine, ...people.filter((person) => person.id !== me.id).map((person) => person.name)];
  all[0] = all[0][0].toUpperCase() + all[0].slice(1);
  if (all.length === 1) return all[0];
  if (all.length > NAMED) return `${all.slice(0, NAMED - 1).join(", ")} and ${all.length - NAMED + 1} more`;
  return `${all.slice(0, -1).join(", ")} and ${all.at(-1)}`;
}
