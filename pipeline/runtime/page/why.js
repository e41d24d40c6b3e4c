// Why an item stands where it stands: what each of your own actions, and each scorer, added to its score.

import { fill, foreign, make } from "./dom.js";
import { ago, score, signed } from "./numbers.js";
import { family, label } from "./scorers.js";

const MOST_ACTIONS = 8;
const MOST_SCORERS = 8;
const DID = {
  view: "You viewed",
  click: "You clicked on",
  like: "You liked",
  purchase: "You bought",
  dislike: "You disliked",
  rating: "You rated",
  add_to_cart: "You put in the cart",
  search: "You searched",
  impression: "You were shown",
};

/** Fill an element with the explanation. */
export function showWhy(element, why) {
  fill(element, steps(why), parts(why));
}

/** From the base to the score, one action at a time: each bar begins where the one before ended. */
function steps(why) {
  const { kept, rest } = strongest(why.actions, MOST_ACTIONS);
  const actions = [...kept].sort((a, b) => a.time_ms - b.time_ms);
  const rows = actions.map((action) => [did(action), action.contribution, ago(action.time_ms)]);
  if (rest.length) rows.push([`${rest.length} more actions`, total(rest), ""]);
  rows.unshift(["Before you did anything", why.base, ""]);
  const { low, high } = reach(rows);
  let sum = 0;
  const lines = rows.map(([words, contribution, when], index) => {
    const from = sum;
    sum += contribution;
    return line(words, signed(contribution), bar(from, sum, low, high, index ? "of-together" : "of-rest"), when);
  });
  const last = line("Its score", score(why.score), bar(0, why.score, low, high, "of-total"), "");
  last.classList.add("sum");
  const caption = why.actions.length ? "What your actions did" : "You have done nothing yet that counts here";
  return table(caption, [...lines, last]);
}

/** What each scorer added. */
function parts(why) {
  const { kept, rest } = strongest(why.scorers, MOST_SCORERS);
  const rows = kept.map((part) => [label(part.name), part.contribution, `of-${family(part.name)}`]);
  if (rest.length) rows.push([`${rest.length} more`, total(rest), "of-rest"]);
  const low = Math.min(0, ...rows.map((row) => row[1]));
  const high = Math.max(0, ...rows.map((row) => row[1]));
  const lines = rows.map(([words, contribution, colour]) =>
    line(words, signed(contribution), bar(0, contribution, low, high, colour), ""),
  );
  const last = line("Its score", score(why.score), null, "");
  last.classList.add("sum");
  return table("How the scorers saw it", [...lines, last]);
}

function did(action) {
  const verb = Object.hasOwn(DID, action.event_type) ? DID[action.event_type] : null;
  const words = make("span", {}, verb ?? foreign(action.event_type));
  if (action.item_id !== null) words.append(" ", make("em", {}, foreign(action.title ?? action.item_id)));
  return words;
}

/** The ones that matter most, and the others. */
function strongest(rows, most) {
  const sorted = [...rows].sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution));
  return sorted.length <= most + 1
    ? { kept: sorted, rest: [] }
    : { kept: sorted.slice(0, most), rest: sorted.slice(most) };
}

const total = (rows) => rows.reduce((sum, row) => sum + row.contribution, 0);

/** The lowest and the highest point that the running sum touches. */
function reach(rows) {
  const sums = [0];
  for (const [, contribution] of rows) sums.push(sums.at(-1) + contribution);
  return { low: Math.min(...sums), high: Math.max(...sums) };
}

function bar(from, to, low, high, colour) {
  const span = high - low || 1;
  const left = (Math.min(from, to) - low) / span;
  const place = { "--left": left, "--width": Math.abs(to - from) / span, "--zero": -low / span };
  const piece = make("span", { class: `piece ${colour}${to < from ? " minus" : ""}` });
  return make("span", { class: "track", "aria-hidden": "true", ...place }, piece);
}

function line(words, number, drawn, when) {
  const head = make("th", { scope: "row" }, words, when ? make("small", {}, ` ${when}`) : null);
  return make("tr", {}, head, make("td", { class: "drawn" }, drawn), make("td", { class: "number" }, number));
}

function table(caption, rows) {
  return make("table", { class: "adds-up" }, make("caption", {}, caption), make("tbody", {}, ...rows));
}
