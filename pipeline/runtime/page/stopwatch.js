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
    this.waiting.set(event.event_id, performance.now());
    at("stopwatch").dataset.state = "running";
    fill(at("stopwatch"), make("strong", {}, "0 ms"), make("span", {}, " since your click"));
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
    const ms = performance.now() - last;
    const number = at("stopwatch").querySelector("strong");
    if (number) tell(number, elapsed(ms));
    if (ms > LATE_MS) at("stopwatch").dataset.state = "late";
    this.frame = requestAnimationFrame(() => this.tick());
  }

  /** A list came; if one of our events brought it about, the milliseconds since, else null. */
  stop(list, changed) {
    const began = this.waiting.get(list.trigger_event_id);
    if (began === undefined) return null;
    const ms = performance.now() - began;
    for (const [event, start] of this.waiting) if (start <= began) this.waiting.delete(event); // earlier ones, too
    this.took = [...this.took, ms].slice(-KEPT);
    if (this.waiting.size === 0) this.show(ms, changed);
    return ms;
  }

  show(ms, changed) {
    const words = [
      changed ? "List changed " : "The same list again ",
      make("strong", {}, elapsed(ms)),
      " after your click",
    ];
    at("stopwatch").dataset.state = "done";
    const line = this.took.length > 2 ? sparkline(this.took, { bars: true, zero: true }) : null;
    fill(at("stopwatch"), make("span", {}, ...words), line);
  }
}
