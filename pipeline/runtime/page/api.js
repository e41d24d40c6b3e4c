// The learner's API: requests that ask for a token where one is needed, and a stream that comes back after it ended.

import { askForToken, bearer, token } from "./token.js";

const SILENT_MS = 25_000; // the server says something every 15 s at least
const LONGEST_WAIT_MS = 20_000;

/** An answer that is not the wanted one, in the server's words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Fetch; where a token is needed, ask for it and try again. */
export async function request(path, options = {}) {
  for (;;) {
    const used = token();
    const headers = { ...options.headers, ...bearer() };
    const answer = await fetch(path, { ...options, headers, cache: "no-store" });
    if (answer.status !== 401) return answer;
    if (used === token()) await askForToken(used !== null);
  }
}

async function body(answer) {
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, told.error ?? `the server answered ${answer.status}`);
  return told;
}

/** A path whose parts came from outside. */
export const path = (...parts) => `/${parts.map(encodeURIComponent).join("/")}`;

/** GET as JSON; throws Refused. */
export const get = async (where, signal) => body(await request(where, { signal }));

/** Publish one event; throws Refused. */
export async function publish(event) {
  const headers = { "Content-Type": "application/json" };
  return body(await request("/v1/events", { method: "POST", headers, body: JSON.stringify(event) }));
}

/** A random UUID, also where the browser has no crypto.randomUUID: on plain HTTP from another machine. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Server-sent events over fetch, since EventSource cannot bear a token. */
async function* messages(where, control) {
  const answer = await request(where, { signal: control.signal, headers: { Accept: "text/event-stream" } });
  if (!answer.ok) throw new Refused(answer.status, `the stream answered ${answer.status}`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const silent = setTimeout(() => control.abort(), SILENT_MS);
    const { value, done } = await reader.read().finally(() => clearTimeout(silent));
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    yield* blocks.map(parsed).filter((message) => message !== null);
  }
}

function parsed(block) {
  let name = "message";
  const lines = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) lines.push(line.slice(5));
  }
  return lines.length ? { name, content: JSON.parse(lines.join("\n")) } : null;
}

/** Reads a stream from `read` until `close`, beginning again with growing pauses whenever it ends. */
export class Stream {
  /** `heard(name, content)` for each message; `told("open" | "trying" | "waiting", ms)` on each change of state. */
  constructor(where, heard, told) {
    Object.assign(this, { where, heard, told, closed: false, control: null, wake: () => {} });
  }

  close() {
    this.closed = true;
    this.control?.abort();
    this.wake();
  }

  /** Do not wait any longer. */
  retry() {
    this.wake();
  }

  async read() {
    for (let failures = 0; !this.closed;) {
      this.control = new AbortController();
      this.told("trying");
      try {
        for await (const { name, content } of messages(this.where, this.control)) {
          if (this.closed) return;
          if (failures !== null) this.told("open");
          failures = null;
          this.heard(name, content);
        }
      } catch (error) {
        if (!(error instanceof TypeError || error instanceof Refused || error.name === "AbortError")) report(error);
      }
      failures = (failures ?? 0) + 1;
      if (!this.closed) await this.pause(failures);
    }
  }

  pause(failures) {
    const ms = Math.min(LONGEST_WAIT_MS, 500 * 2 ** failures) * (0.75 + Math.random() / 2);
    this.told("waiting", ms);
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

const report = (error) => console.error("headrace:", error);
