// What every page has: keys, ages that go on, lists that follow what happens, lines to copy.
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
// The page's ages were right when it came: only what has passed since is added, by this clock.
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
// What is drawn anew keeps the reader's place, and open what was opened.
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
    // Without https there is no clipboard of that kind.
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

// --- forms: what is on its way is not sent once more by a second click
const SENT_MS = 10_000;
const sent = new Set();
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (sent.has(form)) event.preventDefault();
  sent.add(form);
  // Who broke it off may send it again.
  setTimeout(() => sent.delete(form), SENT_MS);
});
window.addEventListener("pageshow", () => sent.clear());

// --- work of several requests: the next begins by itself, unless its reader leaves
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
    // A search box would be emptied.
    event.preventDefault();
    event.target.blur();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  const act = actions[event.key];
  if (!act || event.defaultPrevented) return;
  event.preventDefault();
  act();
});
