// How numbers and times read.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** 12,345. */
export const count = (number) => grouped.format(number);

/** 3.7, 12, 1,204: a digit after the point only where it tells something. */
export const rate = (number) => (Math.abs(number) < 10 ? tenth.format(number) : count(number));

/** +1.20, −0.31, 0.00: with a real minus. */
export function signed(number) {
  const digits = Math.abs(number).toFixed(2);
  return Number(digits) === 0 ? "0.00" : `${number < 0 ? "−" : "+"}${digits}`;
}

/** 4.21, −0.31. */
export const score = (number) => number.toFixed(2).replace("-", "−");

/** .137, as the README writes nDCG. */
export const ndcg = (number) => (typeof number === "number" ? number.toFixed(3).replace(/^0/, "") : "–");

/** 140 ms, 2.4 s. */
export const elapsed = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** 14:03:22 from Unix seconds. */
export const time = (seconds) => clock.format(new Date(seconds * 1000));

/** "3 min ago" from Unix milliseconds. */
export function ago(ms, now = Date.now()) {
  const seconds = Math.max(0, (now - ms) / 1000);
  if (seconds < 10) return "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h ago`;
  return `${count(seconds / 86_400)} days ago`;
}
