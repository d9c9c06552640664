"use strict";
// Follows a job's output where the page left off, and shows the page anew when the job has ended.
const output = document.querySelector("pre.output");
const hidden = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const ansi = /\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[PX^_][^\x1b]*(\x1b\\)?)/g;
// A browser that shows megabytes stands still: the oldest pieces go, the text route has them.
const KEPT = 2000;
let status = null;
let seen = null;

function append(stream, text) {
  const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
  const piece = document.createElement("span");
  piece.className = stream;
  piece.textContent = text.replaceAll("\r\n", "\n").replace(ansi, "")
    .replace(hidden, (c) => "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0"));
  output.append(piece);
  while (output.childElementCount > KEPT) output.firstElementChild.remove();
  if (atEnd) output.scrollTop = output.scrollHeight;
}

// EventSource sends Last-Event-ID only when it reconnects: what the page shows already is skipped.
const [lastAttempt, lastGeneration, lastSeq] = output.dataset.last.split(".");
function isNew(id) {
  const [attempt, generation, seq] = id.split(".");
  return attempt !== lastAttempt || generation !== lastGeneration || Number(seq) > Number(lastSeq);
}

const events = new EventSource(output.dataset.events);
for (const stream of ["stdout", "stderr"]) {
  events.addEventListener(stream, (event) => {
    if (isNew(event.lastEventId)) append(stream, JSON.parse(event.data).data);
  });
}
events.addEventListener("reset", () => output.replaceChildren());
events.addEventListener("state", (event) => {
  const state = JSON.parse(event.data);
  const now = `${state.status} ${state.attempt} ${state.cancelRequested}`;
  if (seen !== null && now !== seen) location.reload();
  seen = now;
  status = state.status;
});
events.addEventListener("end", () => {
  events.close();
  location.reload();
});
