// The machines: the list follows the search while one types; without this module the form works all the same.

import "./common.js";
import { announce } from "../dom.js";
import { fillTimes } from "../times.js";

const form = document.querySelector("form.search");
const input = form.querySelector("input");
let timer = 0;
let latest = 0;

async function search() {
  const address = new URL(form.action);
  if (input.value.trim()) address.searchParams.set("q", input.value.trim());
  const turn = ++latest;
  let page;
  try {
    const response = await fetch(address, { credentials: "same-origin", signal: AbortSignal.timeout(10_000) });
    if (!response.ok || response.redirected) return form.submit();
    page = new DOMParser().parseFromString(await response.text(), "text/html");
  } catch {
    return; // the list stays as it was; Enter asks again
  }
  if (turn !== latest) return; // a newer answer is on its way
  const found = page.querySelector("[data-results]");
  document.querySelector("[data-results]").replaceWith(found);
  history.replaceState(null, "", address);
  fillTimes(found);
  announce(found.dataset.results);
}

input.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(search, 200);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  search();
});
