// The top of the page: whether the learner is live, and its few telling numbers with how they went lately.

import { at, fill, make, tell } from "./dom.js";
import { count, elapsed, rate } from "./numbers.js";
import { sparkline } from "./sparkline.js";

const SHOWN = 90; // points in a sparkline
const ms = (value) => (value === null ? "–" : elapsed(value));
const increments = (read) => (points) => points.slice(1).map((point, index) => read(point) - read(points[index]));
const values = (read) => (points) => points.map(read);

const TILES = [
  { name: "Events per second", value: (s) => rate(s.events_per_second), went: values((s) => s.events_per_second) },
  { name: "Event to list, p50", value: (s) => ms(s.latency_p50_ms), went: values((s) => s.latency_p50_ms) },
  { name: "Event to list, p99", value: (s) => ms(s.latency_p99_ms), went: values((s) => s.latency_p99_ms) },
  { name: "Lag, records", value: (s) => count(s.lag), went: values((s) => s.lag) },
  { name: "Epoch", value: (s) => count(s.epoch), went: increments((s) => s.epoch) },
  { name: "Lists published", value: (s) => count(s.lists), went: increments((s) => s.lists) },
];

const STATES = {
  trying: ["Connecting", "waiting"],
  live: ["Live", "live"],
  recovering: ["Recovering", "waiting"],
  lost: ["Disconnected", "lost"],
};

/** Tiles and state. */
export class Pulse {
  /** `retry` is called when a person does not want to wait for the next try. */
  constructor(retry) {
    this.connected = false;
    this.ready = null;
    this.tiles = TILES.map((tile) => {
      const parts = { value: make("dd", { class: "value" }, "–"), spark: make("dd", { class: "went" }) };
      at("tiles").append(make("div", { class: "tile" }, make("dt", {}, tile.name), parts.value, parts.spark));
      return parts;
    });
    at("retry").addEventListener("click", retry);
    this.state("trying");
  }

  /** The newest points, oldest first. */
  show(points) {
    const last = points.at(-1);
    this.ready = last.ready;
    const shown = points.slice(-SHOWN);
    TILES.forEach((tile, index) => {
      tell(this.tiles[index].value, tile.value(last));
      fill(this.tiles[index].spark, sparkline(tile.went(shown)));
    });
    tell(
      at("knows"),
      `${count(last.users)} users, ${count(last.items)} items, ${count(last.predictions)} predictions scored`,
    );
    if (this.connected) this.live();
  }

  /** What the stream says of itself. */
  stream(state, wait) {
    this.connected = state === "open";
    if (state === "open") this.live();
    else if (state === "waiting") this.lost(wait);
    else if (at("state").dataset.state !== "lost") this.state("trying");
  }

  live() {
    clearInterval(this.countdown);
    this.state(this.ready === false ? "recovering" : "live");
  }

  lost(wait) {
    this.state("lost");
    const until = performance.now() + wait;
    clearInterval(this.countdown);
    const show = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      tell(at("retry-in"), left > 0 ? `Next try in ${left} s.` : "Trying now.");
    };
    this.countdown = setInterval(show, 250);
    show();
  }

  state(name) {
    const [words, kind] = STATES[name];
    tell(at("state-words"), words);
    at("state").dataset.state = kind;
    at("recovering").hidden = name !== "recovering";
    at("disconnected").hidden = name !== "lost";
  }
}
