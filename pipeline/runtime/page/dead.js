// Records that could not be used, newest first, each with its reason.

import { at, fill, make, shown, tell } from "./dom.js";
import { count, time } from "./numbers.js";

const MOST = 12;

/** The newest dead letters. */
export class DeadLetters {
  /** Forget them: a stream that begins tells them again. */
  reset() {
    fill(at("dead"));
  }

  add(letter) {
    at("dead").prepend(entry(letter));
    while (at("dead").children.length > MOST) at("dead").lastElementChild.remove();
    at("no-dead").hidden = true;
  }

  /** How many there are in all. */
  total(number) {
    tell(at("dead-total"), number ? `${count(number)} in all` : "");
  }
}

function entry(letter) {
  const where = `${shown(letter.topic)}, partition ${letter.partition}, offset ${letter.offset}`;
  return make(
    "li",
    {},
    make(
      "p",
      { class: "reason" },
      make("bdi", {}, shown(letter.reason)),
      " ",
      make("span", { class: "error" }, shown(letter.error)),
    ),
    make("p", { class: "where" }, `${time(letter.time)}, ${where}`),
    make("code", {}, make("bdi", {}, shown(letter.excerpt))),
  );
}
