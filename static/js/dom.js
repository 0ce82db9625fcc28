// Builds the page's nodes. Text goes in as text: what a machine says about itself is never read as markup.

const SVG = "http://www.w3.org/2000/svg";
const icons = document.querySelector('meta[name="portafilter-icons"]')?.content ?? "/static/img/icons.svg";

/**
 * Makes an element. `attributes`: names as in HTML; `class`, `text`, `dataset` and `on` (event → listener) besides;
 * null, undefined and false leave an attribute out, true gives it empty.
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An icon of static/img/icons.svg; it says nothing to a screen reader, the words beside it do. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${icons}#${name}`);
  svg.append(use);
  return svg;
}

export function button(text, { kind = "", icon: name = null, action = null, click = null, ...attributes } = {}) {
  return el(
    "button",
    { type: "button", class: `button ${kind}`.trim(), "data-action": action, on: click ? { click } : {}, ...attributes },
    name && icon(name),
    el("span", { text }),
  );
}

/** The JSON that the server put in the page under this id. */
export function pageState(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

/** The one element of the page that its template calls so. */
export function part(name) {
  return document.querySelector(`[data-part="${name}"]`);
}

/** Fills `node` with buttons, given as name → what makes it. While the same ones are offered, those there stay. */
export function offer(node, buttons) {
  const offered = Object.keys(buttons).join();
  if (node.dataset.offered === offered) return;
  node.dataset.offered = offered;
  node.replaceChildren(...Object.values(buttons).map((make) => make()));
}

/** Sets text only when it differs, so that selections and screen readers are left in peace. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

let speaker = null;

/** Says something to screen readers, politely. */
export function announce(text) {
  speaker ??= document.body.appendChild(el("div", { class: "visually-hidden", role: "status", "aria-live": "polite" }));
  speaker.append(el("p", { text }));
  while (speaker.childElementCount > 3) speaker.firstElementChild.remove();
}

let toastNow = null;

/** A short message at the lower edge, with up to one thing to do; it goes by itself after `seconds` (0: it stays). */
export function toast(text, { action = "", click = null, seconds = 7 } = {}) {
  toastNow?.remove();
  const node = el("div", { class: "toast", role: "status" }, el("span", { text }));
  const away = () => node.remove();
  if (action) {
    node.append(
      button(action, {
        click: () => {
          away();
          click();
        },
      }),
    );
  }
  node.append(el("button", { type: "button", class: "button", "aria-label": "Dismiss", on: { click: away } }, icon("shut")));
  // A dialog in the top layer would cover it.
  (document.querySelector("dialog[open]") ?? document.fullscreenElement ?? document.body).append(node);
  toastNow = node;
  if (seconds) setTimeout(away, seconds * 1000);
  return node;
}

/**
 * A modal dialog; resolves when it is shut. `build(dialog, shut)` gives the body and the foot.
 * On a phone it comes from below; Escape and a click beside it shut it.
 */
export function openDialog(title, build, { name = "" } = {}) {
  const id = `dialog-${Math.random().toString(36).slice(2)}`;
  const dialog = el("dialog", { "aria-labelledby": id, "data-dialog": name });
  const shut = () => dialog.close();
  const { body, foot = null } = build(dialog, shut);
  dialog.append(
    el(
      "div",
      { class: "dialog-head" },
      el("h2", { id, text: title }),
      el("button", { type: "button", class: "button quiet", "aria-label": "Close this dialog", on: { click: shut } }, icon("shut")),
    ),
    body,
  );
  if (foot) dialog.append(foot);
  // The second click of a double one, on what had opened it, is none beside it.
  dialog.addEventListener("click", (event) => event.target === dialog && event.detail < 2 && shut());
  const before = document.activeElement;
  (document.fullscreenElement ?? document.body).append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const saidInside = dialog.querySelector(".toast");
      if (saidInside) (document.fullscreenElement ?? document.body).append(saidInside);
      dialog.remove();
      if (before?.isConnected) before.focus({ preventScroll: true });
      resolve(dialog.returnValue);
    });
  });
}
