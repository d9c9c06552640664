// A job's output as lines, in blocks of text: fifty megabytes stay fifty megabytes, whatever the
// number of lines, and only the blocks that are looked at are split.
import { PLAIN, parse } from "./ansi.js";

const BLOCK_LINES = 1024;
const BLOCK_CHARACTERS = 128 * 1024;
// A line that is longer goes on in the next: a browser that lays out ten megabytes stands still.
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

  // Lines of one stream, or of both: what is not ended yet is the last line of its stream.
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

  // The number of a line among all, of the nth of one stream.
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

  // The other way round; for a line of the other stream, the next of this one.
  nth(stream, position) {
    if (stream === null) return position;
    const block = find(this.#all(), (b) => b.first <= position);
    let count = block.before[stream];
    for (let i = block.first; i < position && i - block.first < block.kinds.length; i += 1) {
      if (block.kinds[i - block.first] === stream) count += 1;
    }
    return count;
  }

  // The line at a position: its stream, its text, and the looks it begins with.
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

  // Blocks for a search: each with where it begins and its text.
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
    // First of all, or a bar that has drawn itself often enough would be cut into its pieces.
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

// A bar that redraws itself leaves what it drew last.
function overwritten(line) {
  const at = line.replace(/\r+$/, "").lastIndexOf("\r");
  return at < 0 ? line.replace(/\r+$/, "") : line.slice(at + 1).replace(/\r+$/, "");
}

// The last block for which the test holds; it holds for the first, and not again once it failed.
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
