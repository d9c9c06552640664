// Live lists: htmx requests the list again when the server says that jobs changed. Not while it is
// paused or rows are selected; while the page is hidden, the stream is closed, because an open
// stream holds a thread of the server.
const state = document.getElementById("live");
const pause = document.getElementById("pause");
let feed = document.getElementById("feed");
let source = null;
let missed = false;
// The last request for the list failed: the stream may go on while MongoDB is away.
let refused = false;
// While the mouse button is down, the list must not be replaced, or there would be no click.
let pressed = false;

const chosen = () => document.querySelector("#list input[type=checkbox]:checked") !== null;
const paused = () => pause.getAttribute("aria-pressed") === "true";
const still = () => paused() || chosen() || pressed;

function say() {
  const [kind, text] = paused() ? ["off", "Paused"]
    : chosen() ? ["off", "Still while rows are selected"]
    : refused ? ["lost", "Not up to date, trying again"]
    : source?.readyState === EventSource.OPEN ? ["live", "Live"]
    : ["lost", "Connecting"];
  if (state.textContent !== text) state.textContent = text;
  state.dataset.state = kind;
  pause.textContent = paused() ? "Go on" : "Pause";
}

function stop() {
  source?.close();
  source = null;
}

function catchUp() {
  if (!missed || still()) return;
  missed = false;
  window.htmx.trigger("#refresh", "refresh");
}

// htmx's extension opens a stream for each new element, so a new stream needs a new element.
function start() {
  stop();
  const fresh = feed.cloneNode(true);
  feed.replaceWith(fresh);
  feed = fresh;
  window.htmx.process(feed);
  window.htmx.trigger("#refresh", "refresh");
}

if (feed && state) {
  state.hidden = pause.hidden = false;
  pause.setAttribute("aria-pressed", String(sessionStorage.getItem("paused") === "yes"));
  document.addEventListener("htmx:sseOpen", (event) => {
    source = event.detail.source;
    if (document.hidden || paused()) stop();
    say();
  });
  // The server ends each stream after a while; open the next at once.
  document.addEventListener("htmx:sseClose", (event) => {
    if (event.detail.type === "message" && !document.hidden && !paused()) setTimeout(start);
  });
  document.addEventListener("htmx:sseError", () => setTimeout(say));
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!event.detail.elt.closest("#feed")) return;
    if (!document.hidden && !still()) return;
    missed = true;
    event.preventDefault();
  });
  // An answer that was on its way when the user selected a row or pressed a button must not replace
  // the list.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (!event.detail.requestConfig.elt.closest("#feed") || !still()) return;
    missed = true;
    event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.elt.closest("#feed")) return;
    refused = event.detail.failed;
    say();
  });
  document.addEventListener("change", () => {
    say();
    catchUp();
  });
  // Only the main button: the others open menus, and then their release may not be reported.
  document.addEventListener("pointerdown", (event) => { pressed = event.button === 0; });
  for (const end of ["pointerup", "pointercancel"]) {
    // The click event comes after pointerup, so wait for it.
    document.addEventListener(end, () => setTimeout(() => {
      pressed = false;
      catchUp();
    }));
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
    else if (!paused()) start();
    say();
  });
  pause.addEventListener("click", () => {
    const now = !paused();
    pause.setAttribute("aria-pressed", String(now));
    sessionStorage.setItem("paused", now ? "yes" : "no");
    if (now) stop();
    else start();
    say();
  });
  say();
}
