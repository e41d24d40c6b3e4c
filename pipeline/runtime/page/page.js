// The live page: one stream in, every part of the page told of its share.

import { Acting } from "./acting.js";
import { Stream } from "./api.js";
import { DeadLetters } from "./dead.js";
import { at, tell } from "./dom.js";
import { List } from "./list.js";
import { Person } from "./person.js";
import { Pulse } from "./pulse.js";
import { Quality } from "./quality.js";
import { showLegend } from "./scorers.js";
import { Stopwatch } from "./stopwatch.js";
import { Weights } from "./weights.js";

const POINTS = 300;
const SAY_MS = 700; // lists may come in quick succession; only the last one is worth hearing

class Page {
  constructor() {
    this.user = null;
    this.points = [];
    this.stopwatch = new Stopwatch();
    this.acting = new Acting({
      user: () => this.user,
      sent: (event) => this.stopwatch.start(event),
      failed: (event) => this.stopwatch.drop(event),
    });
    this.list = new List({ act: (item, button) => this.acting.act(item, button), say: (words) => this.say(words) });
    this.pulse = new Pulse(() => this.stream.retry());
    this.quality = new Quality();
    this.weights = new Weights();
    this.dead = new DeadLetters();
    this.person = new Person({ chosen: (user) => this.be(user) });
    this.heard = {
      history: ({ points }) => this.begin(points),
      stats: (stats) => this.tick(stats),
      list: (list) => this.listed(list),
      dead: (letter) => this.dead.add(letter),
    };
  }

  start() {
    showLegend(at("legend"));
    this.list.reset(null);
    this.person.start();
    if (this.user === null) this.follow();
  }

  be(user) {
    this.user = user;
    this.list.reset(user);
    this.stopwatch.reset();
    this.follow();
  }

  follow() {
    this.stream?.close();
    const query = this.user === null ? "" : `?${new URLSearchParams({ user: this.user })}`;
    const stream = new Stream(
      `/v1/stream${query}`,
      (name, content) => stream === this.stream && this.heard[name]?.(content),
      (state, wait) => stream === this.stream && this.told(state, wait),
    );
    this.stream = stream;
    stream.read();
  }

  told(state, wait) {
    this.pulse.stream(state, wait);
    if (state !== "open") return;
    if (!at("cards").children.length) this.acting.find();
  }

  begin(points) {
    this.points = points;
    this.dead.reset();
    if (points.length) this.display();
  }

  tick(stats) {
    const before = this.points.at(-1);
    this.points = [...this.points, stats].slice(-POINTS);
    this.display();
    if (before && (before.ready !== stats.ready || (before.items === 0 && stats.items > 0))) this.acting.find();
  }

  display() {
    const last = this.points.at(-1);
    this.pulse.show(this.points);
    this.quality.show(this.points);
    this.weights.show(last.weights);
    this.dead.total(last.dead_letters);
  }

  listed(list) {
    if (list.user_id !== this.user) return;
    this.stopwatch.stop(list, this.list.show(list));
    this.acting.nameVerb();
  }

  say(words) {
    clearTimeout(this.saying);
    this.saying = setTimeout(() => tell(at("said"), words), SAY_MS);
  }
}

new Page().start();
