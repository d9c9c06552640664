// The output on a job's page: shows it as it comes, drawing only the visible lines, and refreshes
// the rest of the page when the job's state changes.
import { classes, parse, strip } from "./ansi.js";
import { follow } from "./events.js";
import { Lines, STREAMS } from "./lines.js";

const ROW = 18;
// Browsers limit the height of an element to some 33 million pixels.
const TALLEST = 12_000_000;
const MATCHES = 10_000;
// The most matches that are marked in one piece of a line: it may have two thousand, and each is
// an element.
const MARKS = 100;
const MOVING_MS = 5000;
const SILENCE_MS = 3000;

const byId = (id) => document.getElementById(id);
const viewer = byId("viewer");
const lines = new Lines();
let stream = null;
let following = false;
let needle = "";
let matches = [];
let current = -1;
// The line that the page's address names (#L12), counted from 0, or -1.
const named = () => Number(/^#L(\d+)$/.exec(location.hash)?.[1] ?? 0) - 1;
let chosen = named();
let wanted = chosen;

// --- the window
const scroller = document.createElement("div");
scroller.className = "scroller";
scroller.tabIndex = 0;
scroller.setAttribute("role", "region");
scroller.setAttribute("aria-label", "Output");
const space = document.createElement("div");
space.className = "space";
const pane = document.createElement("div");
pane.className = "window";
space.append(pane);
scroller.append(space);

const scale = () => Math.max(1, (lines.count(stream) * ROW) / TALLEST);
const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 2 * ROW;

// The position is kept as the number of the top line. With scaling, the same scrollTop means
// another line when more output comes.
let top = 0;
let placed = 0;
let lastScale = 1;
function place(line) {
  top = Math.max(0, line);
  scroller.scrollTop = (top * ROW) / scale();
  placed = scroller.scrollTop;
}
scroller.addEventListener("scroll", () => {
  if (Math.abs(scroller.scrollTop - placed) < 1) return;
  if (following && !atEnd()) setFollowing(false);
  placed = scroller.scrollTop;
  top = (placed * scale()) / ROW;
  soon();
});

let drawing = false;
function soon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function draw() {
  const count = lines.count(stream);
  space.style.height = `${Math.min(count * ROW, TALLEST) + 8}px`;
  scroller.classList.toggle("short", count * ROW < 600);
  const fit = Math.ceil(scroller.clientHeight / ROW);
  const last = Math.max(0, count - fit + 1);
  if (wanted >= 0 && wanted < lines.count(null)) {
    setFollowing(false);
    place(Math.min(last, lines.nth(stream, wanted) - Math.floor(fit / 3)));
    wanted = -1;
  } else if (following) {
    scroller.scrollTop = scroller.scrollHeight;
    placed = scroller.scrollTop;
    top = last;
  } else if (scale() !== lastScale) place(top);
  lastScale = scale();
  const first = Math.floor(scale() > 1 && atEnd() ? last : Math.min(last, top));
  const from = Math.max(0, first - 5);
  const rows = [];
  for (let i = from; i < Math.min(count, first + fit + 6); i += 1) rows.push(row(lines.position(stream, i)));
  pane.replaceChildren(...rows);
  const offset = scale() === 1 ? from * ROW : scroller.scrollTop - (first - from) * ROW;
  pane.style.transform = `translateY(${Math.max(0, offset)}px)`;
  space.style.minWidth = `${pane.scrollWidth}px`;
}

function row(position) {
  const line = lines.at(position);
  const made = document.createElement("div");
  made.className = `row ${STREAMS[line.stream]}`;
  made.classList.toggle("chosen", position === chosen);
  made.classList.toggle("found", position === matches[current]);
  const number = document.createElement("a");
  number.className = "n";
  number.href = `#L${position + 1}`;
  number.textContent = position + 1;
  number.tabIndex = -1;
  const text = document.createElement("span");
  text.className = "t";
  for (const piece of parse(line.text, line.begin).pieces) text.append(...marked(piece));
  made.append(number, text);
  return made;
}

function* marked({ text, looks }) {
  const name = classes(looks);
  const lower = needle && text.toLowerCase();
  let from = 0;
  let marks = 0;
  for (let at = needle ? lower.indexOf(needle) : -1; at >= 0 && marks < MARKS; at = lower.indexOf(needle, from)) {
    marks += 1;
    if (at > from) yield span("span", text.slice(from, at), name);
    yield span("mark", text.slice(at, at + needle.length), name);
    from = at + needle.length;
  }
  if (from < text.length) yield span("span", text.slice(from), name);
}

function span(kind, text, name) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  made.textContent = text;
  return made;
}

// --- following
function setFollowing(on) {
  following = on;
  byId("follow").setAttribute("aria-pressed", String(on));
}
byId("follow").addEventListener("click", () => {
  setFollowing(!following);
  soon();
});
new ResizeObserver(soon).observe(scroller);

// --- lines by their numbers
window.addEventListener("hashchange", () => {
  chosen = named();
  soon();
});
pane.addEventListener("click", (event) => {
  if (!event.target.matches(".n")) return;
  event.preventDefault();
  history.replaceState(null, "", event.target.getAttribute("href"));
  chosen = Number(event.target.textContent) - 1;
  soon();
});

// --- which stream
for (const button of byId("streams").children) {
  button.addEventListener("click", () => {
    for (const other of byId("streams").children) other.setAttribute("aria-pressed", String(other === button));
    stream = button.dataset.stream ? STREAMS.indexOf(button.dataset.stream) : null;
    search();
    place(0);
    soon();
  });
}

// --- find
let searching = 0;
async function search() {
  const mine = (searching += 1);
  needle = byId("needle").value.toLowerCase();
  matches = [];
  current = -1;
  if (!needle) {
    byId("found").textContent = "";
    return soon();
  }
  let breath = performance.now();
  for (const block of lines.searched) {
    const text = block.text ?? block.lines.join("\n");
    // In a block with colours, escapes may split a match, so each line is searched without them.
    if (block.coloured !== false || text.toLowerCase().includes(needle)) {
      lines.linesOf(block).forEach((line, i) => {
        const here = stream === null || block.kinds[i] === stream;
        if (here && matches.length < MATCHES && strip(line).toLowerCase().includes(needle)) matches.push(block.first + i);
      });
    }
    if (performance.now() - breath > 12) {
      await new Promise((go) => setTimeout(go));
      breath = performance.now();
      if (mine !== searching) return undefined;
    }
  }
  for (let p = lines.open.first + lines.open.kinds.length; p < lines.count(null); p += 1) {
    const line = lines.at(p);
    if ((stream === null || line.stream === stream) && strip(line.text).toLowerCase().includes(needle)) matches.push(p);
  }
  return step(1);
}
function step(by) {
  if (matches.length) {
    current = (current + by + matches.length) % matches.length;
    wanted = matches[current];
  }
  const total = matches.length.toLocaleString("en") + (matches.length < MATCHES ? "" : " and more");
  byId("found").textContent = !needle ? "" : matches.length ? `${(current + 1).toLocaleString("en")} of ${total}` : "not found";
  soon();
}
let typing = 0;
byId("needle").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(search, 150);
});
byId("find").addEventListener("submit", (event) => event.preventDefault());
byId("needle").addEventListener("keydown", (event) => {
  if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
});
byId("next").addEventListener("click", () => step(1));
byId("previous").addEventListener("click", () => step(-1));

document.addEventListener("keydown", (event) => {
  if (event.target.matches?.("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    g: () => { setFollowing(false); place(0); },
    G: () => setFollowing(true),
    n: () => step(1),
    N: () => step(-1),
    p: () => setFollowing(!following),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
  soon();
});

// --- what comes
let shown = false;
function show() {
  if (shown) return;
  shown = true;
  for (const id of ["plain", "more", "nothing"]) byId(id)?.remove();
  viewer.querySelector("header").after(scroller);
  for (const id of ["streams", "find", "follow"]) byId(id).hidden = false;
}

let attempt = null;
let seen = viewer.dataset.state;
let bytes = 0;
// Drop the text so far: it belongs to another attempt, or was replaced.
function anew(of) {
  lines.clear();
  bytes = 0;
  attempt = of;
}
const ENDED = ["COMPLETED", "FAILED", "CANCELLED"];
function handle({ name, data }) {
  const told = data ? JSON.parse(data) : {};
  if (name === "reset") {
    anew(attempt);
  } else if (STREAMS.includes(name)) {
    if (attempt !== null && told.attempt !== attempt) anew(told.attempt);
    attempt = told.attempt;
    bytes += told.data.length;
    lines.add(name, told.data);
    show();
    soon();
  } else {
    if (viewer.dataset.over === undefined && attempt !== null && told.attempt > attempt) {
      // The new attempt may print nothing; only this event tells that the text is an earlier one's.
      anew(told.attempt);
      soon();
    }
    const now = `${told.status} ${told.attempt} ${told.cancelRequested}`;
    if (now !== seen || name === "end") refresh();
    seen = now;
    if (name === "end") end();
  }
}

function end() {
  stop();
  if (following) draw();
  setFollowing(false);
  byId("follow").hidden = true;
  ended = true;
}

// Refresh the rest of the page, except while somebody types into it.
function refresh() {
  const busy = byId("facts").querySelector("input:focus, details.cancel[open]");
  if (!busy) window.htmx.trigger("#facts", "refresh");
}
setInterval(() => {
  if (!document.hidden && document.querySelector("#facts[data-moving]")) refresh();
}, MOVING_MS);

// --- the stream is open only while the page is visible; then what was missed is read
let ended = false;
let stopping = null;
function stop() {
  stopping?.abort();
  stopping = null;
  say("");
}
function start() {
  stop();
  anew(null);
  stopping = new AbortController();
  follow(viewer.dataset.events, stopping.signal, handle, heard);
}

// Say that the connection is lost only after a while: a stream that the server ended is soon back.
let silence = 0;
function heard(status) {
  if (status === 200) say("");
  else if (status >= 400 && status < 500) say("Not followed any more: load the page again");
  else silence ||= setTimeout(say, SILENCE_MS, "Connection lost, trying again");
}
function say(text) {
  clearTimeout(silence);
  silence = 0;
  byId("line").textContent = text;
  byId("line").hidden = !text;
}
setFollowing(viewer.dataset.over === undefined && !ENDED.includes(viewer.dataset.state.split(" ")[0]) && chosen < 0);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stop();
  else if (!ended) start();
});
if (!document.hidden) start();
