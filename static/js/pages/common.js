// What every page has: the account's menu, times in words, alarms for supervisors, who waits.

import { keepAlarms } from "../alarms.js";
import { keepCount } from "../attention.js";
import { keepTimes } from "../times.js";
import { keepWorker } from "../worker.js";

const menu = document.querySelector("details.who");

if (menu) {
  keepWorker(); // for whoever is signed in
  const shut = () => menu.removeAttribute("open");
  document.addEventListener("click", (event) => !menu.contains(event.target) && shut());
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    shut();
    menu.querySelector("summary").focus();
  });
}

keepTimes();
keepAlarms();
// The page's own module comes after this one, and says whether it has a line.
setTimeout(keepCount);
