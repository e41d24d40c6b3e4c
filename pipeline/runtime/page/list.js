// A user's list as it changes: rows move, marks say how far, reasons add up, and each row opens to tell why.

import { get, path } from "./api.js";
import { art } from "./art.js";
import { at, fill, foreign, make, shown, tell } from "./dom.js";
import { reorder } from "./flip.js";
import { count, score, signed, time } from "./numbers.js";
import { label, family, named, scaleOf, stackedBar } from "./scorers.js";
import { showWhy } from "./why.js";

const TOLD = 2; // changes in one sentence

/** The list of one user at a time. */
export class List {
  /** `act(item, button)` publishes the chosen event; `say(words)` tells a screen reader. */
  constructor({ act, say }) {
    Object.assign(this, { act, say, user: null, rows: new Map(), order: null });
  }

  /** Another user: an empty list until theirs comes. */
  reset(user) {
    Object.assign(this, { user, rows: new Map(), order: null });
    fill(at("rows"));
    fill(at("list-title"), ...(user === null ? ["Your list"] : ["The list of ", foreign(user)]));
    tell(at("list-meta"), "");
    at("nobody").hidden = user !== null;
    at("no-list").hidden = user === null;
    at("legend-block").hidden = true;
  }

  /** Show a newer list; whether it differs from the one before. */
  show(list) {
    const before = this.order;
    const order = list.items.map((item) => item.item_id);
    const scale = scaleOf(list.items);
    const rows = list.items.map((item, index) => {
      const row = this.rows.get(item.item_id) ?? this.made(item);
      update(row, item, index, before, scale);
      return row;
    });
    this.keep(order, rows);
    tell(at("list-meta"), `Epoch ${count(list.epoch)}, ${time(list.generated_at / 1000)}`);
    at("no-list").hidden = order.length > 0;
    at("legend-block").hidden = order.length === 0;
    this.order = order;
    for (const row of rows) if (row.open) this.explain(row);
    const changed = before === null || order.join("\n") !== before.join("\n");
    if (changed) this.say(sentence(list.items, before));
    return changed;
  }

  /** Put the rows in order; forget those that left, and hold the focus if it was in one of them. */
  keep(order, rows) {
    const kept = new Set(order);
    for (const [id, row] of this.rows) {
      if (kept.has(id)) continue;
      if (row.element.contains(document.activeElement)) at("list-title").focus({ preventScroll: true });
      this.rows.delete(id);
    }
    reorder(
      at("rows"),
      rows.map((row) => row.element),
    );
  }

  made(item) {
    const id = `why-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    const row = { item, open: false, asked: 0, ...parts(id, item) };
    row.button.addEventListener("click", () => this.toggle(row));
    row.again.addEventListener("click", (event) => this.act(item.item_id, event.currentTarget));
    this.rows.set(item.item_id, row);
    return row;
  }

  toggle(row) {
    row.open = !row.open;
    row.button.setAttribute("aria-expanded", String(row.open));
    row.panel.hidden = !row.open;
    if (row.open) this.explain(row);
  }

  async explain(row) {
    const asked = (row.asked += 1);
    const user = this.user;
    try {
      const why = await get(path("v1", "why", user, row.item.item_id));
      if (asked === row.asked && user === this.user) showWhy(row.why, why);
    } catch (error) {
      if (asked === row.asked) fill(row.why, make("p", {}, `This cannot be told now: ${shown(error.message)}`));
    }
  }
}

function parts(id, item) {
  const row = {
    rank: make("span", { class: "rank" }),
    mark: make("span", { class: "mark" }),
    score: make("span", { class: "score" }),
    bar: make("span", { class: "bar" }),
    reasons: make("span", { class: "named" }),
    why: make("div", { class: "why" }, make("p", {}, "Asking the learner …")),
    again: make("button", { type: "button", class: "again" }, make("span", { class: "verb" }), " this"),
  };
  const title = make("span", { class: "title" }, foreign(item.title ?? item.item_id));
  const open = make("span", { class: "chevron", "aria-hidden": "true" });
  row.button = make(
    "button",
    { type: "button", "aria-expanded": "false", "aria-controls": id },
    row.rank,
    art(item.item_id, "stamp"),
    title,
    row.mark,
    row.score,
    open,
  );
  row.panel = make("div", { class: "panel", id, hidden: "" }, row.why, row.again);
  const reasons = make("div", { class: "reasons" }, row.bar, row.reasons);
  row.element = make("li", { class: "row" }, make("h3", {}, row.button), reasons, row.panel);
  return row;
}

function update(row, item, index, before, scale) {
  row.item = item;
  tell(row.rank, String(index + 1));
  tell(row.score, score(item.score));
  const moved = change(item.item_id, index, before);
  row.mark.dataset.kind = moved.kind;
  fill(row.mark, make("span", { "aria-hidden": "true" }, moved.sign), make("span", { class: "unseen" }, moved.words));
  fill(row.bar, stackedBar(item.reasons, scale));
  fill(row.reasons, ...named(item.reasons).map(word));
}

const word = (reason) =>
  make(
    "span",
    { class: `reason of-${family(reason.name)}` },
    label(reason.name),
    " ",
    make("b", {}, signed(reason.contribution)),
  );

/** How an item's place differs from the one that it had. */
function change(id, index, before) {
  if (before === null) return { kind: "none", sign: "", words: "" };
  const was = before.indexOf(id);
  if (was < 0) return { kind: "new", sign: "new", words: ", new" };
  const up = was - index;
  if (up === 0) return { kind: "none", sign: "", words: "" };
  return up > 0
    ? { kind: "up", sign: `▲ ${up}`, words: `, up ${up}` }
    : { kind: "down", sign: `▼ ${-up}`, words: `, down ${-up}` };
}

/** The largest changes, in one short sentence. */
function sentence(items, before) {
  const titles = items.map((item) => shown(item.title ?? item.item_id).slice(0, 60));
  if (before === null) return items.length ? `The list begins with ${titles[0]}.` : "The list is empty.";
  const changes = items
    .map((item, index) => ({ index, was: before.indexOf(item.item_id) }))
    .filter(({ index, was }) => was !== index)
    .map(({ index, was }) => ({ index, was, size: was < 0 ? items.length + 1 - index : Math.max(0, was - index) }))
    .sort((a, b) => b.size - a.size)
    .slice(0, TOLD)
    .map(
      ({ index, was }) => `${titles[index]} ${was < 0 ? "is new at" : was > index ? "up to" : "down to"} ${index + 1}`,
    );
  return changes.length ? `List changed: ${changes.join(", ")}.` : "List changed: it is shorter.";
}
