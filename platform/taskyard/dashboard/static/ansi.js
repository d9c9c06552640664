// Splits terminal output into pieces of one style. The text is not trusted: of all that a terminal
// would obey, only colours of a readable palette and text styles are kept. Hidden characters are
// written out; the list is that of presenters.py.
const ESCAPES = /\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[PX^_][^\x1b]*(\x1b\\)?|[ -/]*[0-~])/g;
const COLOUR = /^\x1b\[([\d;:]*)m$/;
const HIDDEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;

export const PLAIN = Object.freeze({ colour: null, bold: false, dim: false, italic: false, under: false });

export function visible(text) {
  return text.replace(HIDDEN, (c) => "\\x" + c.codePointAt(0).toString(16).padStart(2, "0"));
}

export function strip(text) {
  return visible(text.includes("\x1b") ? text.replace(ESCAPES, "") : text);
}

// The pieces of a line with their styles (looks), and the style with which the next line begins.
export function parse(text, begin) {
  if (!text.includes("\x1b")) return { pieces: [{ text: visible(text), looks: begin }], end: begin };
  const pieces = [];
  let looks = begin;
  let from = 0;
  for (const match of text.matchAll(ESCAPES)) {
    if (match.index > from) pieces.push({ text: visible(text.slice(from, match.index)), looks });
    const colour = COLOUR.exec(match[0]);
    if (colour) looks = turned(looks, colour[1]);
    from = match.index + match[0].length;
  }
  if (from < text.length) pieces.push({ text: visible(text.slice(from)), looks });
  return { pieces, end: looks };
}

export function classes(looks) {
  const names = [];
  if (looks.colour !== null) names.push(`c${looks.colour}`);
  if (looks.bold) names.push("a-bold");
  if (looks.dim) names.push("a-dim");
  if (looks.italic) names.push("a-italic");
  if (looks.under) names.push("a-under");
  return names.join(" ");
}

function turned(looks, codes) {
  const next = { ...looks };
  const numbers = codes.split(/[;:]/).map(Number);
  for (let i = 0; i < numbers.length; i += 1) {
    const code = numbers[i];
    if (code === 0) Object.assign(next, PLAIN);
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.under = true;
    else if (code === 22) next.bold = next.dim = false;
    else if (code === 23) next.italic = false;
    else if (code === 24) next.under = false;
    else if (code === 39) next.colour = null;
    else if (code >= 30 && code <= 37) next.colour = code - 30;
    else if (code >= 90 && code <= 97) next.colour = code - 90;
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(numbers.slice(i + 1));
      if (code === 38) next.colour = colour;
      i += used;
    }
  }
  return next;
}

// The nearest colour of the palette for one of 256 colours or for true colour, and how many numbers
// of the sequence it took.
function extended(rest) {
  if (rest[0] === 2) return [nearest(rest.slice(1, 4)), 4];
  if (rest[0] !== 5) return [null, 0];
  const index = rest[1] ?? 0;
  if (index < 16) return [index % 8, 2];
  if (index > 231) return [index > 243 ? 7 : 0, 2];
  const cube = index - 16;
  return [nearest([Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map((part) => part * 51)), 2];
}

function nearest(parts) {
  const most = Math.max(...parts, 1);
  const bits = parts.map((part) => (part > most * 0.6 ? 1 : 0));
  return bits[0] + 2 * (bits[1] ?? 0) + 4 * (bits[2] ?? 0);
}
