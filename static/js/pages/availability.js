// Availability: two things that save typing. The page's forms work without.

import "./common.js";
import { announce } from "../dom.js";

// What was refused may be far down the page.
const wrong = document.querySelector('main [aria-invalid="true"]') ?? document.querySelector('main [role="alert"]');
wrong?.scrollIntoView({ block: "center" });
wrong?.focus({ preventScroll: true });

const hours = document.querySelector("form[data-hours]");
const zone = hours.querySelector("select");
const hint = hours.querySelector("[data-zone-hint]");
const copy = hours.querySelector("[data-copy]");
const days = [...hours.querySelectorAll(".workday")];

const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (here && here !== zone.value && [...zone.options].some((option) => option.value === here)) {
  hint.querySelector("b").textContent = here.replaceAll("_", " ");
  hint.hidden = false;
  hint.querySelector("button").addEventListener("click", () => {
    zone.value = here;
    hint.hidden = true;
    zone.focus();
    announce(`Time zone: ${here}. Save to keep it.`);
  });
}

function offerCopy() {
  copy.hidden = ![...days[0].querySelectorAll("input")].some((input) => input.value);
}

copy.addEventListener("click", () => {
  const monday = [...days[0].querySelectorAll("input")];
  for (const day of days.slice(1, 5)) {
    [...day.querySelectorAll("input")].forEach((input, at) => {
      input.value = monday[at]?.value ?? "";
    });
    const second = day.querySelector("details");
    if (second) second.open = [...second.querySelectorAll("input")].some((input) => input.value);
  }
  announce("Tuesday to Friday are as Monday now. Save to keep it.");
});

days[0].addEventListener("input", offerCopy);
offerCopy();
