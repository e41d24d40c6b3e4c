// What the learner's scorers and their columns are called for a person, and which colour their family has.

import { fill, make, shown } from "./dom.js";

export const FAMILIES = {
  together: "goes with what you did",
  people: "people like you",
  about: "what it is about",
  crowd: "popular now",
  model: "interest model",
  rest: "everything else",
};

const KNOWN = {
  neighbours: ["together", "liked together"],
  "together-long": ["together", "liked together, long ago too"],
  together: ["together", "liked together"],
  "after-any": ["together", "comes after it"],
  "after-any-short": ["together", "comes soon after it"],
  next: ["together", "comes next"],
  "next-now": ["together", "comes next, just now"],
  before: ["together", "comes before it"],
  lately: ["together", "lately together"],
  ridge: ["together", "whole history"],
  companions: ["people", "people like you"],
  factorization: ["people", "shared taste"],
  content: ["about", "about the same"],
  "content-nearest": ["about", "nearest in text"],
  "content-text": ["about", "what you asked for"],
  attributes: ["about", "same traits"],
  "attributes-crossed": ["about", "traits of people and things"],
  popularity: ["crowd", "popularity"],
  "popularity-20k": ["crowd", "popular, last 20,000 events"],
  "popularity-2k": ["crowd", "popular, last 2,000 events"],
  "popularity-200": ["crowd", "popular, last 200 events"],
  "popularity-stage": ["crowd", "popular at your stage"],
  "liked-share": ["crowd", "share who liked it"],
  interest: ["model", "interest model"],
  impressions: ["rest", "seen before"],
  "taken-when-shown": ["rest", "taken when shown"],
  "not-passed-over": ["rest", "not passed over"],
  interaction: ["rest", "scorers combined"],
  others: ["rest", "other scorers"],
  diversity: ["rest", "moved for variety"],
};

/** The family of a scorer or column; one that this page does not know belongs to the rest. */
export const family = (name) => (Object.hasOwn(KNOWN, name) ? KNOWN[name][0] : "rest");

/** Its name for a person. */
export const label = (name) => (Object.hasOwn(KNOWN, name) ? KNOWN[name][1] : shown(name));

/** Which colour is which family, and what hatching means. */
export function showLegend(list) {
  const keys = Object.entries(FAMILIES).map(([name, words]) =>
    make("li", {}, make("span", { class: `key of-${name}`, "aria-hidden": "true" }), words),
  );
  fill(
    list,
    ...keys,
    make("li", {}, make("span", { class: "key minus of-rest", "aria-hidden": "true" }), "counts against"),
  );
}

/** Contributions as pieces of one bar around a common zero; `scale` has the largest sums to either side. */
export function stackedBar(reasons, scale) {
  const span = scale.plus + scale.minus || 1;
  const piece = (reason) =>
    make("span", {
      class: `piece of-${family(reason.name)}${reason.contribution < 0 ? " minus" : ""}`,
      "--share": Math.abs(reason.contribution) / (reason.contribution < 0 ? scale.minus || 1 : scale.plus || 1),
    });
  const side = (kind, pieces) => make("span", { class: kind }, ...pieces.map(piece));
  const strongest = [...reasons].sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution));
  return make(
    "span",
    { class: "stacked", "aria-hidden": "true", "--zero": scale.minus / span },
    side("against", strongest.filter((reason) => reason.contribution < 0).reverse()),
    side(
      "for",
      strongest.filter((reason) => reason.contribution > 0),
    ),
  );
}

/** The largest sums of positive and of negative contributions among rows. */
export function scaleOf(rows) {
  const sum = (row, sign) => row.reasons.reduce((total, reason) => total + Math.max(0, sign * reason.contribution), 0);
  return {
    plus: Math.max(0, ...rows.map((row) => sum(row, 1))),
    minus: Math.max(0, ...rows.map((row) => sum(row, -1))),
  };
}

/** The reasons in words and numbers, the strongest first. */
export function named(reasons) {
  return [...reasons]
    .filter((reason) => Math.abs(reason.contribution) >= 0.005 || reason.name === "diversity")
    .sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution));
}
