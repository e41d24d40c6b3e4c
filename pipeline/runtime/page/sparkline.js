// Small charts without axes: how a number went lately.

import { draw } from "./dom.js";

const [WIDTH, HEIGHT, PAD] = [120, 28, 2];

/** An SVG of these numbers, oldest first; null leaves a gap. `bars`: columns, no line. `zero`: it begins at 0. */
export function sparkline(values, { bars = false, zero = false } = {}) {
  const known = values.filter((value) => value !== null);
  const low = zero ? 0 : Math.min(...known);
  const high = Math.max(...known);
  const y = (value) => HEIGHT - PAD - ((value - low) / (high - low || 1)) * (HEIGHT - 2 * PAD);
  const x = (index) => (index / Math.max(1, values.length - 1)) * WIDTH;
  const frame = {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    class: "spark",
    "aria-hidden": "true",
  };
  if (known.length < 2) return draw("svg", frame);
  return bars ? draw("svg", frame, ...columns(values, y)) : draw("svg", frame, ...line(values, x, y));
}

function line(values, x, y) {
  let [path, area, from] = ["", "", null];
  const close = (to) => (from === null ? "" : `L${x(to).toFixed(1)} ${HEIGHT}L${x(from).toFixed(1)} ${HEIGHT}Z`);
  values.forEach((value, index) => {
    if (value === null) {
      area += close(index - 1);
      from = null;
      return;
    }
    const point = `${from === null ? "M" : "L"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    from ??= index;
    path += point;
    area += point;
  });
  area += close(values.length - 1);
  return [draw("path", { d: area, class: "under" }), draw("path", { d: path, class: "line" })];
}

function columns(values, y) {
  const step = WIDTH / Math.max(12, values.length);
  return values.map((value, index) =>
    draw("rect", { x: index * step, y: y(value), width: step * 0.7, height: HEIGHT - y(value), class: "column" }),
  );
}
