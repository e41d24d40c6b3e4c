// Who you are: any id, one that was lately active, or somebody new.

import { get } from "./api.js";
import { at, fill, make, shown } from "./dom.js";

const CHIPS = 8;
const REFRESH_MS = 30_000;
const NEW = ["ada", "ben", "cleo", "dora", "emil", "fay", "gus", "hana", "ivo", "june", "kofi", "lena", "milo", "nina"];

/** Lets a person choose; `chosen(user)` is told of each choice. */
export class Person {
  constructor({ chosen }) {
    Object.assign(this, { chosen, known: [], user: null });
    at("person").addEventListener("submit", (event) => {
      event.preventDefault();
      this.be(at("user").value.trim());
    });
    at("user").addEventListener("change", () => this.be(at("user").value.trim()));
    at("someone-new").addEventListener("click", () => this.be(invented(this.known)));
  }

  /** Begin with whoever the address names. */
  start() {
    const user = new URLSearchParams(location.search).get("user");
    if (user) this.be(user);
    this.refresh();
    setInterval(() => document.hidden || this.refresh(), REFRESH_MS);
  }

  /** Be this user from now on. */
  be(user) {
    if (!user || user === this.user) return;
    this.user = user;
    at("user").value = user;
    const address = new URL(location.href);
    address.searchParams.set("user", user);
    history.replaceState(null, "", address);
    this.mark();
    this.chosen(user);
  }

  async refresh() {
    try {
      this.known = (await get("/v1/users?n=20")).users;
    } catch {
      return; // the next time, perhaps; the stream tells of what is wrong
    }
    fill(at("people"), ...this.known.map((user) => make("option", { value: user })));
    const chips = this.known
      .slice(0, CHIPS)
      .map((user) =>
        make("li", {}, make("button", { type: "button", class: "chip", onclick: () => this.be(user) }, shown(user))),
      );
    if (!at("lately").contains(document.activeElement)) fill(at("lately"), ...chips); // never from under the focus
    at("lately-block").hidden = chips.length === 0;
    this.mark();
  }

  mark() {
    for (const chip of at("lately").querySelectorAll("button")) {
      chip.setAttribute("aria-pressed", String(this.user !== null && chip.textContent === shown(this.user)));
    }
  }
}

/** A name that nobody lately active has. */
function invented(taken) {
  const free = NEW.filter((name) => !taken.includes(name));
  const name = free[Math.floor(Math.random() * free.length)] ?? "visitor";
  return `${name}-${Math.floor(1000 + Math.random() * 9000)}`;
}
