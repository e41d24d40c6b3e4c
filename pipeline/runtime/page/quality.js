// How well the learner predicts, beside its peers, over time; marks where the stream drifted.

import { at, draw, fill, make, tell } from "./dom.js";
import { count, ndcg, time } from "./numbers.js";

const HEIGHT = 296;
const EDGE = { top: 30, bottom: 26, left: 38 };
const LABEL_PX = 17;
const TABLE_ROWS = 12;
const OURS = "headrace";
const NAMES = { headrace: "Headrace", "item-item": "item–item", popularity: "popularity" };

const nameOf = (key) => NAMES[key] ?? key;
const valueOf = (point, key) => point.quality[key]?.ndcg ?? null;

/** The chart, its sentence and its table. */
export class Quality {
  constructor() {
    Object.assign(this, { points: [], pointer: null });
    const chart = at("chart");
    new ResizeObserver(() => this.paint()).observe(chart);
    chart.addEventListener("pointermove", (event) => {
      this.pointer = event.clientX - chart.getBoundingClientRect().left;
      this.paint();
    });
    chart.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.paint();
    });
    at("quality-table").addEventListener("toggle", () => this.tabulate());
  }

  /** All points that there are, oldest first. */
  show(points) {
    this.points = points;
    this.paint();
    this.tabulate();
  }

  paint() {
    const keys = keysOf(this.points);
    const known = this.points.filter((point) => keys.some((key) => valueOf(point, key) !== null));
    at("no-quality").hidden = known.length > 1;
    at("chart").hidden = known.length < 2;
    if (known.length < 2) return;
    const width = Math.max(260, at("chart").clientWidth);
    const scale = scaleOf(this.points, keys, width);
    const marks = drifts(this.points);
    const summary = summed(known.at(-1), keys);
    tell(at("ahead"), summary.ahead);
    const told = `nDCG at 10 since ${time(this.points[0].time)}: ${summary.values}; ${marks.length} drift marks.`;
    const attributes = { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": told };
    const drawn = [
      ...axes(this.points, scale, width),
      ...marks.flatMap((point) => drift(point, scale)),
      ...keys.map((key, index) => curve(this.points, key, index, scale)),
      ...ends(known.at(-1), keys, scale),
    ];
    if (this.pointer !== null) drawn.push(...this.reading(scale, keys));
    fill(at("chart"), draw("svg", attributes, ...drawn));
  }

  /** A line under the pointer, and what the curves say there. */
  reading(scale, keys) {
    const near = this.points.reduce((best, point) =>
      Math.abs(scale.x(point) - this.pointer) < Math.abs(scale.x(best) - this.pointer) ? point : best,
    );
    const x = scale.x(near);
    const words = `${time(near.time)}  ${keys.map((key) => `${nameOf(key)} ${ndcg(valueOf(near, key))}`).join("  ")}`;
    const dots = keys.flatMap((key, index) =>
      valueOf(near, key) === null
        ? []
        : [draw("circle", { cx: x, cy: scale.y(valueOf(near, key)), r: 4, class: `dot peer-${index}` })],
    );
    const rule = draw("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "rule" });
    return [rule, ...dots, draw("text", { x: 0, y: 12, class: "reading" }, words)];
  }

  tabulate() {
    if (!at("quality-table").open) return;
    const keys = keysOf(this.points);
    const step = Math.max(1, Math.ceil(this.points.length / TABLE_ROWS));
    const rows = this.points.filter((_, index) => (this.points.length - 1 - index) % step === 0);
    const marked = drifts(this.points);
    const head = ["Time", "Predictions", ...keys.map(nameOf), "Drift since the row before"];
    const cells = rows.map((point, index) => {
      const since = marked.filter((mark) => mark.time <= point.time && mark.time > (rows[index - 1]?.time ?? 0)).length;
      return [count(point.predictions), ...keys.map((key) => ndcg(valueOf(point, key))), since ? String(since) : "no"];
    });
    fill(
      at("quality-rows"),
      make("caption", { class: "unseen" }, "Prequential nDCG at 10 over time"),
      make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows.map((point, index) => row(time(point.time), cells[index]))),
    );
  }
}

const row = (name, cells) =>
  make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", {}, cell)));

/** Headrace first, then its peers as they come. */
function keysOf(points) {
  const keys = Object.keys(points.at(-1)?.quality ?? {});
  return [...keys.filter((key) => key === OURS), ...keys.filter((key) => key !== OURS)];
}

const drifts = (points) => points.filter((point, index) => index > 0 && point.drifts > points[index - 1].drifts);

/** Each value in words, and how far Headrace is ahead of the best peer. */
function summed(point, keys) {
  const values = keys.map((key) => `${nameOf(key)} ${ndcg(valueOf(point, key))}`).join(", ");
  const peers = keys.filter((key) => key !== OURS && valueOf(point, key) > 0);
  const best = peers.sort((a, b) => valueOf(point, b) - valueOf(point, a))[0];
  const ours = valueOf(point, OURS);
  const ahead = best && ours ? `${(ours / valueOf(point, best)).toFixed(2)} × ${nameOf(best)}` : "";
  return { values, ahead };
}

function scaleOf(points, keys, width) {
  const right = width < 480 ? 112 : 120;
  const top = Math.max(0.01, ...points.flatMap((point) => keys.map((key) => valueOf(point, key) ?? 0)));
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((size) => top / size <= 5) ?? 1;
  const high = Math.ceil((top * 1.04) / step) * step;
  const [first, last] = [points[0].time, points.at(-1).time];
  const x = (point) => EDGE.left + ((point.time - first) / (last - first || 1)) * (width - EDGE.left - right);
  const y = (value) => HEIGHT - EDGE.bottom - (value / high) * (HEIGHT - EDGE.top - EDGE.bottom);
  return { x, y, high, step, right };
}

function axes(points, scale, width) {
  const end = width - scale.right;
  const ticks = Array.from({ length: Math.round(scale.high / scale.step) + 1 }, (_, index) => index * scale.step);
  const lines = ticks.flatMap((tick) => [
    draw("line", { x1: EDGE.left, x2: end, y1: scale.y(tick), y2: scale.y(tick), class: tick ? "grid" : "axis" }),
    draw(
      "text",
      { x: EDGE.left - 8, y: scale.y(tick) + 4, class: "tick", "text-anchor": "end" },
      tick.toFixed(2).replace(/^0/, ""),
    ),
  ]);
  const times = [
    [points[0], "start"],
    [points.at(-1), "end"],
  ].map(([point, anchor]) =>
    draw("text", { x: scale.x(point), y: HEIGHT - 6, class: "tick", "text-anchor": anchor }, time(point.time)),
  );
  return [...lines, ...times];
}

function drift(point, scale) {
  const x = scale.x(point);
  return [
    draw("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "drift" }),
    draw("path", { d: `M${x} ${EDGE.top - 6}l5 5l-5 5l-5 -5Z`, class: "drift-mark" }),
  ];
}

function curve(points, key, index, scale) {
  let pen = "M";
  const path = points.map((point) => {
    const value = valueOf(point, key);
    const to = value === null ? "" : `${pen}${scale.x(point).toFixed(1)} ${scale.y(value).toFixed(1)}`;
    pen = value === null ? "M" : "L";
    return to;
  });
  return draw("path", { d: path.join(""), class: `curve peer-${index}` });
}

/** Names and values at the curves' ends, pushed apart where they would meet. */
function ends(point, keys, scale) {
  const x = scale.x(point) + 8;
  const labels = keys
    .map((key, index) => ({ key, index, value: valueOf(point, key) }))
    .filter((label) => label.value !== null)
    .map((label) => ({ ...label, y: scale.y(label.value) + 4 }))
    .sort((a, b) => a.y - b.y);
  labels.forEach((label, index) => {
    if (index) label.y = Math.max(label.y, labels[index - 1].y + LABEL_PX);
  });
  return labels.map((label) =>
    draw(
      "text",
      { x, y: label.y, class: `end peer-${label.index}` },
      draw("tspan", { class: "figure" }, ndcg(label.value)),
      draw("tspan", { dx: 6 }, nameOf(label.key)),
    ),
  );
}
