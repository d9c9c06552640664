// A job's output as lines, stored in blocks of text: fifty megabytes of output take fifty megabytes
// whatever the number of lines. Only blocks that are shown or searched are split into lines.
import { PLAIN, parse } from "./ansi.js";

const BLOCK_LINES = 1024;
const BLOCK_CHARACTERS = 128 * 1024;
// Longer lines are split into several: a browser hangs when it lays out a line of ten megabytes.
const LINE_CHARACTERS = 2000;
const KEPT_SPLIT = 12;
export const STREAMS = ["stdout", "stderr"];

export class Lines {
  constructor() {
    this.clear();
  }

  clear() {
    this.blocks = [];
    this.open = newBlock(0, [0, 0], [PLAIN, PLAIN]);
    this.partial = ["", ""];
    this.split = new Map();
  }

  // The number of lines of one stream, or of both (null). Text without an end of line counts as the
  // last line of its stream.
  count(stream) {
    if (stream === null) return this.open.first + this.open.kinds.length + this.#unended().length;
    return this.open.before[stream] + this.open.own[stream] + (this.partial[stream] ? 1 : 0);
  }

  add(name, text) {
    const stream = STREAMS.indexOf(name);
    let rest = this.partial[stream] + text.replaceAll("\r\n", "\n");
    const kept = rest.endsWith("\r") ? "\r" : "";
    if (kept) rest = rest.slice(0, -1);
    let from = 0;
    for (let at = rest.indexOf("\n"); at >= 0; at = rest.indexOf("\n", from)) {
      this.#fold(stream, rest.slice(from, at), true);
      from = at + 1;
    }
    this.partial[stream] = this.#fold(stream, rest.slice(from), false) + kept;
  }

  // The position among all lines of the nth line of a stream.
  position(stream, nth) {
    if (stream === null) return nth;
    const ended = this.open.before[stream] + this.open.own[stream];
    if (nth >= ended) return this.open.first + this.open.kinds.length + this.#unended().indexOf(stream);
    const block = find(this.#all(), (b) => b.before[stream] <= nth);
    let left = nth - block.before[stream];
    for (let i = 0; i < block.kinds.length; i += 1) {
      if (block.kinds[i] === stream && left-- === 0) return block.first + i;
    }
    return block.first;
  }

  // The reverse of position(): for a line of the other stream, the next line of this stream.
  nth(stream, position) {
    if (stream === null) return position;
    const block = find(this.#all(), (b) => b.first <= position);
    let count = block.before[stream];
    for (let i = block.first; i < position && i - block.first < block.kinds.length; i += 1) {
      if (block.kinds[i - block.first] === stream) count += 1;
    }
    return count;
  }

  // The line at a position: its stream, its text, and the style (looks) with which it begins.
  at(position) {
    const ended = this.open.first + this.open.kinds.length;
    if (position >= ended) {
      const stream = this.#unended()[position - ended];
      if (stream === undefined) return null;
      return { stream, text: overwritten(this.partial[stream]), begin: this.#looksAtEnd()[stream] };
    }
    const block = find(this.#all(), (b) => b.first <= position);
    const { lines, begins } = this.#splitted(block);
    const i = position - block.first;
    return { stream: block.kinds[i], text: lines[i], begin: begins ? begins[i] : block.begin[block.kinds[i]] };
  }

  // All blocks, for a search.
  get searched() {
    return this.#all();
  }

  linesOf(block) {
    return this.#splitted(block).lines;
  }

  #all() {
    return [...this.blocks, this.open];
  }

  #unended() {
    return [0, 1].filter((stream) => this.partial[stream]);
  }

  #fold(stream, text, ended) {
    // Before the split: a progress bar that redrew itself often would be split into many lines.
    let rest = overwritten(text);
    while (rest.length > LINE_CHARACTERS) {
      this.#push(stream, rest.slice(0, LINE_CHARACTERS));
      rest = rest.slice(LINE_CHARACTERS);
    }
    if (ended) this.#push(stream, rest);
    return rest;
  }

  #push(stream, line) {
    const block = this.open;
    block.lines.push(line);
    block.kinds.push(stream);
    block.own[stream] += 1;
    block.size += line.length + 1;
    if (block.kinds.length >= BLOCK_LINES || block.size >= BLOCK_CHARACTERS) this.#seal();
  }

  #seal() {
    const block = this.open;
    const before = [block.before[0] + block.own[0], block.before[1] + block.own[1]];
    const next = newBlock(block.first + block.kinds.length, before, this.#looksAtEnd());
    block.text = block.lines.join("\n");
    block.lines = null;
    block.kinds = Uint8Array.from(block.kinds);
    block.coloured = block.text.includes("\x1b");
    this.split.delete(block);
    this.blocks.push(block);
    this.open = next;
  }

  #looksAtEnd() {
    const looks = [...this.open.begin];
    this.open.lines.forEach((line, i) => {
      if (line.includes("\x1b")) looks[this.open.kinds[i]] = parse(line, looks[this.open.kinds[i]]).end;
    });
    return looks;
  }

  #splitted(block) {
    const known = this.split.get(block);
    if (known && known.lines.length === block.kinds.length) return known;
    const lines = block.lines ?? block.text.split("\n");
    let begins = null;
    if (block.coloured ?? lines.some((line) => line.includes("\x1b"))) {
      const looks = [...block.begin];
      begins = lines.map((line, i) => {
        const begin = looks[block.kinds[i]];
        looks[block.kinds[i]] = parse(line, begin).end;
        return begin;
      });
    }
    const made = { lines: block.lines ? [...lines] : lines, begins };
    this.split.delete(block);
    this.split.set(block, made);
    if (this.split.size > KEPT_SPLIT) this.split.delete(this.split.keys().next().value);
    return made;
  }
}

function newBlock(first, before, begin) {
  return { first, before, begin, own: [0, 0], lines: [], kinds: [], size: 0, text: null };
}

// What a terminal shows of a line with carriage returns: a progress bar as it was drawn last.
function overwritten(line) {
  const at = line.replace(/\r+$/, "").lastIndexOf("\r");
  return at < 0 ? line.replace(/\r+$/, "") : line.slice(at + 1).replace(/\r+$/, "");
}

// The last block for which the test holds, by binary search: it holds for the first blocks alone.
function find(blocks, holds) {
  let low = 0;
  let high = blocks.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (holds(blocks[middle])) low = middle;
    else high = middle - 1;
  }
  return blocks[low];
}
