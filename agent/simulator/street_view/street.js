// Keeps the pictures fresh, and presses on a machine's screen what is pressed on its picture.

const KEYS = {
  Enter: "Return", Backspace: "BackSpace", Delete: "Delete", Escape: "Escape", ArrowLeft: "Left", ArrowRight: "Right",
  ArrowUp: "Up", ArrowDown: "Down", Home: "Home", End: "End",
};

for (const picture of document.querySelectorAll("img.screen")) keepFresh(picture);
const machine = document.querySelector(".machine");
if (machine) standInFrontOf(machine);

async function keepFresh(picture) {
  const source = picture.src;
  const lost = document.querySelector(".lost");
  let mark = "";
  let shown = "";
  for (;;) {
    await sleep(Number(picture.dataset.every));
    if (document.hidden) continue;
    try {
      const answer = await fetch(source, { headers: mark ? { "If-None-Match": mark } : {}, cache: "no-store" });
      if (lost) lost.hidden = answer.ok || answer.status === 304;
      if (!answer.ok) continue;
      mark = answer.headers.get("ETag");
      const next = URL.createObjectURL(await answer.blob());
      picture.src = next;
      await picture.decode();
      if (shown) URL.revokeObjectURL(shown);
      shown = next;
    } catch {
      if (lost) lost.hidden = false;
      await sleep(1000);
    }
  }
}

function standInFrontOf(place) {
  const picture = place.querySelector(".screen");
  place.focus();
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const x = Math.round(((event.clientX - box.left) / box.width) * Number(picture.getAttribute("width")));
    const y = Math.round(((event.clientY - box.top) / box.height) * Number(picture.getAttribute("height")));
    place.focus();
    press("click", { x, y });
  });
  picture.addEventListener("dragstart", (event) => event.preventDefault());
  place.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    if (event.key.length === 1) press("type", { text: event.key });
    else if (KEYS[event.key] || /^F([1-9]|1[0-2])$/.test(event.key)) press("key", { key: KEYS[event.key] ?? event.key });
    else return;
    event.preventDefault();
  });

  let last = Promise.resolve();
  function press(action, body) {
    // One after the other: letters must arrive in the order in which they were typed.
    last = last.then(() =>
      fetch(place.dataset.machine + action, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      }).catch(() => {}),
    );
  }
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
