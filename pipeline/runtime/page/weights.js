// How much each scorer's column counts at the moment: the learned weights as bars that move.

import { at, make, tell } from "./dom.js";
import { reorder } from "./flip.js";
import { score } from "./numbers.js";
import { family, label } from "./scorers.js";

const MOST = 10;
const SORT_MS = 4_000; // places change at most so often: a bar that jumps every second cannot be read

/** The largest weights, by size. */
export class Weights {
  constructor() {
    Object.assign(this, { rows: new Map(), start: null, sorted: -Infinity, top: [] });
  }

  show(weights) {
    const names = Object.keys(weights);
    at("no-weights").hidden = names.length > 0;
    at("weights-note").hidden = names.length === 0;
    if (!names.length) return;
    this.start ??= { ...weights };
    if (performance.now() - this.sorted > SORT_MS || this.top.some((name) => !(name in weights))) this.sort(weights);
    const scale = [...this.top.map((name) => weights[name]), ...this.top.map((name) => this.start[name] ?? 0), 0];
    const [low, high] = [Math.min(...scale), Math.max(...scale)];
    for (const name of this.top) place(this.rows.get(name), weights[name], this.start[name] ?? 0, low, high);
    const more = names.length - this.top.length;
    tell(at("more-weights"), more > 0 ? `and ${more} smaller ones.` : "");
  }

  sort(weights) {
    this.sorted = performance.now();
    const size = (name) => Math.abs(weights[name]);
    this.top = Object.keys(weights)
      .sort((a, b) => size(b) - size(a))
      .slice(0, MOST);
    for (const name of this.top) if (!this.rows.has(name)) this.rows.set(name, made(name));
    reorder(
      at("weights"),
      this.top.map((name) => this.rows.get(name).element),
    );
    for (const name of [...this.rows.keys()]) if (!this.top.includes(name)) this.rows.delete(name);
  }
}

function made(name) {
  const piece = make("span", { class: `piece of-${family(name)}` });
  const track = make("span", { class: "track", "aria-hidden": "true" }, piece, make("span", { class: "before" }));
  const value = make("span", { class: "number" });
  return { piece, track, value, element: make("li", {}, make("span", { class: "name" }, label(name)), track, value) };
}

function place(row, weight, start, low, high) {
  const span = high - low || 1;
  const set = (name, number) => row.track.style.setProperty(name, number.toFixed(4));
  set("--left", (Math.min(0, weight) - low) / span);
  set("--width", Math.abs(weight) / span);
  set("--zero", -low / span);
  set("--before", (start - low) / span);
  row.piece.classList.toggle("minus", weight < 0);
  tell(row.value, score(weight));
}
