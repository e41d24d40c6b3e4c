// How long after a click the changed list is here: measured in the browser, from the click itself.

import { at, fill, make, tell } from "./dom.js";
import { elapsed } from "./numbers.js";
import { sparkline } from "./sparkline.js";

const LATE_MS = 5_000;
const KEPT = 24;

/** Runs from an event until the list that it brought about. */
export class Stopwatch {
  constructor() {
    this.waiting = new Map();
    this.took = [];
    this.frame = null;
    this.idle();
  }

  /** Forget what was waited for: another user, another list. */
  reset() {
    this.waiting.clear();
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.idle();
  }

  idle() {
    fill(at("stopwatch"), "Do something, and the time until this list has changed stands here.");
    at("stopwatch").dataset.state = "idle";
  }

  /** An event goes out now. */
  start(event) {
    const search = event.event_type === "search";
    this.waiting.set(event.event_id, { at: performance.now(), search, same: 0 });
    at("stopwatch").dataset.state = "running";
    fill(at("stopwatch"), make("strong", {}, "0 ms"), make("span", {}, ` since your ${named(search)}`));
    if (this.frame === null) this.tick();
  }

  /** It was refused. */
  drop(event) {
    this.waiting.delete(event.event_id);
    if (this.waiting.size === 0) this.reset();
  }

  tick() {
    const last = [...this.waiting.values()].at(-1);
    if (last === undefined) {
      this.frame = null;
      return;
    }
    const ms = performance.now() - last.at;
    const number = at("stopwatch").querySelector("strong");
    if (number) tell(number, elapsed(ms));
    if (ms > LATE_MS) at("stopwatch").dataset.state = "late";
    this.frame = requestAnimationFrame(() => this.tick());
  }

  /** A list came; if one of our events brought it about, the milliseconds since, else null. */
  stop(list, changed) {
    const begun = this.waiting.get(list.trigger_event_id);
    if (begun === undefined) return null;
    // A search brings two lists about: of itself, and of what its words mean, once they are embedded.
    if (begun.search && !changed && begun.same++ === 0) return null;
    const ms = performance.now() - begun.at;
    for (const [event, { at }] of this.waiting) if (at <= begun.at) this.waiting.delete(event); // earlier ones, too
    this.took = [...this.took, ms].slice(-KEPT);
    if (this.waiting.size === 0) this.show(ms, changed, begun.search);
    return ms;
  }

  show(ms, changed, search) {
    const words = [
      changed ? "List changed " : "The same list again ",
      make("strong", {}, elapsed(ms)),
      ` after your ${named(search)}`,
    ];
    at("stopwatch").dataset.state = "done";
    const line = this.took.length > 2 ? sparkline(this.took, { bars: true, zero: true }) : null;
    fill(at("stopwatch"), make("span", {}, ...words), line);
  }
}

function named(search) {
  return search ? "search" : "click";
}
