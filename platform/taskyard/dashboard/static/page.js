// For all pages: keys, ages that go on, live lists, selection, buttons to copy, forms sent once.
import "./live.js";

const byId = (id) => document.getElementById(id);

// --- ages
function age(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) {
      const count = seconds / size;
      return `${count < 10 ? count.toFixed(1).replace(".0", "") : count.toFixed(0)} ${unit}`;
    }
  }
  return `${Math.floor(seconds)} s`;
}
// The ages in the page were right when it came. Only the time since then is added, so the time of
// day of this host does not matter.
const shown = new WeakMap();
function goOn() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    if (!shown.has(time)) shown.set(time, { text: time.textContent, at: performance.now() });
    const first = shown.get(time);
    const passed = (performance.now() - first.at) / 1000;
    const [count, unit] = first.text.split(" ");
    const base = Number(count) * ({ s: 1, min: 60, h: 3600, d: 86400 }[unit] ?? NaN);
    if (passed >= 1 && !Number.isNaN(base)) time.textContent = `${age(base + passed)} ago`;
  }
}
setInterval(() => document.hidden || goOn(), 1000);
goOn();

// --- rows
const rows = () => [...document.querySelectorAll("tr[data-row]")];
const linkOf = (row) => row.querySelector("a, summary");
function go(step) {
  const all = rows();
  if (!all.length) return;
  const now = all.findIndex((row) => row.contains(document.activeElement));
  const next = now < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, now + step));
  linkOf(all[next])?.focus();
}
// After a refresh, restore the focus and open the details that were open.
let place = null;
let opened = [];
const folds = () => [...document.querySelectorAll("#list details, #facts details")];
const nameOf = (fold) => fold.dataset.name ?? fold.querySelector("summary").textContent;
const placeOf = (active) => active?.getAttribute("href") ?? (active?.matches("summary") ? nameOf(active.parentElement) : null);
document.addEventListener("htmx:beforeSwap", () => {
  const active = document.activeElement;
  opened = folds().filter((fold) => fold.open).map(nameOf);
  place = active?.closest?.("#list, #facts") ? placeOf(active) : null;
});
document.addEventListener("htmx:afterSettle", () => {
  for (const fold of folds()) fold.open ||= opened.includes(nameOf(fold));
  if (place) [...document.querySelectorAll("#list :is(a, summary), #facts :is(a, summary)")].find((each) => placeOf(each) === place)?.focus();
  prepare();
});

// --- selection
function count() {
  const boxes = [...document.querySelectorAll("#list tbody input[type=checkbox]")];
  const chosen = boxes.filter((box) => box.checked).length;
  const text = byId("selected");
  if (text) text.textContent = `${chosen} selected`;
  const all = byId("all");
  if (all) {
    all.checked = chosen > 0 && chosen === boxes.length;
    all.indeterminate = chosen > 0 && chosen < boxes.length;
  }
}
document.addEventListener("change", (event) => {
  if (event.target.id === "all") {
    for (const box of document.querySelectorAll("#list tbody input[type=checkbox]")) box.checked = event.target.checked;
  }
  if (event.target.matches?.("input[type=checkbox]")) count();
});

// --- lines to copy
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers have navigator.clipboard only over HTTPS and for localhost.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
function prepare() {
  for (const box of document.querySelectorAll(".copy:not(:has(> button))")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await copy(box.querySelector("pre").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  }
  if (byId("all")) byId("all").hidden = false;
  count();
}
prepare();

// --- forms: a second click does not send a form again
const SENT_MS = 10_000;
const sent = new Set();
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  // By address: a live page may replace the form between two clicks.
  const address = form.getAttribute("action");
  if (sent.has(address)) event.preventDefault();
  sent.add(address);
  // A user who stopped the request may send the form again.
  setTimeout(() => sent.delete(address), SENT_MS);
});
// A user who comes back may send it again; the first showing comes late, and may follow a click.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) sent.clear();
});

// --- work that takes several requests: the page sends the next one, if it is still open
document.querySelector("form[data-goes-on]")?.requestSubmit();

// --- keys
const keys = byId("keys");
byId("keys-button").hidden = false;
byId("keys-button").addEventListener("click", () => keys.showModal());
const actions = {
  "/": () => (byId("search") ?? byId("needle"))?.focus(),
  j: () => go(1),
  k: () => go(-1),
  g: () => go(-Infinity),
  G: () => go(Infinity),
  x: () => document.activeElement.closest?.("tr[data-row]")?.querySelector("input[type=checkbox]")?.click(),
  p: () => byId("pause")?.click(),
  J: () => location.assign("/"),
  W: () => location.assign("/workers"),
  O: () => location.assign("/overview"),
  S: () => location.assign("/system"),
  "?": () => keys.showModal(),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape" && typing) {
    // By default Escape empties a search box.
    event.preventDefault();
    event.target.blur();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  const act = actions[event.key];
  if (!act || event.defaultPrevented) return;
  event.preventDefault();
  act();
});
