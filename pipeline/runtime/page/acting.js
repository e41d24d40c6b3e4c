// What you do: find items, click on them, say what you are after. Each becomes an event like any other.

import { get, newId, publish } from "./api.js";
import { art } from "./art.js";
import { at, fill, foreign, make, shown, tell } from "./dom.js";

const CARDS = 24;
const TYPING_MS = 180;
const VERBS = { view: "View", like: "Like", purchase: "Buy", dislike: "Dislike" };

/** Publishes what a person does; `sent(event)` is told as soon as they did it, `failed(event)` if it was refused. */
export class Acting {
  constructor({ user, sent, failed }) {
    Object.assign(this, { user, sent, failed, asked: null });
    at("find").addEventListener("input", () => this.soon());
    at("find-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.find();
    });
    at("ask-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    at("verbs").addEventListener("change", () => this.nameVerb());
  }

  /** The chosen event type. */
  get type() {
    return at("verbs").querySelector("input:checked").value;
  }

  /** What it is called on a button. */
  get verb() {
    return VERBS[this.type];
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.find(), TYPING_MS);
  }

  /** Show the items that the words in the search box find. */
  async find() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.asked = new AbortController();
    const words = at("find").value.trim();
    try {
      const found = await get(`/v1/items?${new URLSearchParams({ q: words, n: CARDS })}`, this.asked.signal);
      this.show(found.items, words);
    } catch (error) {
      if (error.name !== "AbortError") this.complain(`Items cannot be read: ${error.message}`);
    }
  }

  show(items, words) {
    at("no-items").hidden = items.length > 0 || words !== "";
    tell(at("found"), !words ? "" : items.length ? `${items.length} found` : `Nothing found for “${shown(words)}”`);
    fill(at("cards"), ...items.map((item) => make("li", {}, this.card(item))));
    this.nameVerb();
  }

  card(item) {
    const themes = item.categories.slice(0, 3).map(shown).join(" · ");
    return make(
      "button",
      { type: "button", class: "card", onclick: (event) => this.act(item.item_id, event.currentTarget) },
      art(item.item_id, "cover"),
      make("span", { class: "verb" }),
      make("span", { class: "title" }, foreign(item.title ?? item.item_id)),
      make("span", { class: "themes" }, make("bdi", {}, themes)),
    );
  }

  nameVerb() {
    for (const verb of document.querySelectorAll(".verb")) tell(verb, this.verb);
  }

  /** The chosen type of event on an item. */
  async act(item, button) {
    button.classList.remove("sent");
    if (await this.publish({ event_type: this.type, item_id: item })) {
      void button.offsetWidth; // so that the animation of a second click starts anew
      button.classList.add("sent");
    }
  }

  /** What you said, as a search. */
  async ask() {
    const text = at("ask").value.trim();
    if (text && (await this.publish({ event_type: "search", text }))) at("ask").value = "";
  }

  async publish(what) {
    const user = this.user();
    if (user === null) {
      this.complain("First say who you are: type any name above, or be someone new.");
      at("user").focus();
      return false;
    }
    const event = { ...what, user_id: user, timestamp: Date.now(), event_id: newId() };
    this.sent(event);
    try {
      await publish(event);
      this.complain("");
      return true;
    } catch (error) {
      this.failed(event);
      this.complain(`Not taken: ${error.message}`);
      return false;
    }
  }

  complain(words) {
    tell(at("refused"), shown(words));
  }
}
