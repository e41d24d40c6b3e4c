// A small picture for each item, drawn from its id alone: the same water wherever it shows, for the eye to follow.

import { draw } from "./dom.js";

const WAVES = 4;
const STEPS = 20;

/** An SVG of a few waves; decoration only. */
export function art(id, kind = "") {
  const random = numbers(id);
  const hue = Math.round(random() * 360);
  const waves = Array.from({ length: WAVES }, (_, index) =>
    draw("path", { d: wave(random, 20 + (index * 32) / WAVES), class: `wave w${index}` }),
  );
  const attributes = {
    class: `art ${kind}`,
    viewBox: "0 0 100 60",
    preserveAspectRatio: "xMidYMid slice",
    "--hue": hue,
  };
  const sun = draw("circle", { cx: 28 + random() * 44, cy: 17 + random() * 7, r: 3.5 + random() * 3, class: "sun" });
  return draw("svg", { ...attributes, "aria-hidden": "true", focusable: "false" }, sun, ...waves);
}

function wave(random, height) {
  const [long, short] = [3 + random() * 5, 1 + random() * 2];
  const [turn, slow, fast] = [random() * 6.28, 0.6 + random() * 1.1, 2 + random() * 2.5];
  const y = (x) => height + long * Math.sin(turn + slow * x * 6.28) + short * Math.sin(turn * 3 + fast * x * 6.28);
  const points = Array.from({ length: STEPS + 1 }, (_, step) => step / STEPS);
  const line = points.map((x) => `L${(x * 100).toFixed(1)} ${y(x).toFixed(1)}`).join("");
  return `M0 60${line}L100 60Z`;
}

/** Numbers in [0, 1) that depend on the text alone (FNV-1a, then mulberry32). */
function numbers(text) {
  let state = 0x811c9dc5;
  for (const character of text) state = Math.imul(state ^ character.codePointAt(0), 0x01000193);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
