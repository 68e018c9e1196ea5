// Where the server is and how it is asked: addresses, the token, answers in plain words.

import { reason } from "./words.js";

const AWAY = "The server cannot be reached.";
const SILENT = "The server does not answer.";
// whoever looks at a page does not wait longer for an answer
const ANSWER_MS = 10_000;
// answers without a body, as those to HEAD
const BARE = {
  401: { code: "unauthorized", detail: "the server's token is missing, or it is another one" },
};

// Does `work(signal)`, which is broken off with an Error that says `silent` when it takes
// longer than `ms`: over a network that has gone silent a browser waits for minutes. The
// signal `stopped` breaks it off as well.
export const within = async (ms, work, silent = SILENT, stopped = null) => {
  const control = new AbortController();
  const stop = () => control.abort();
  const patience = setTimeout(() => control.abort(new Error(silent)), ms);
  stopped?.addEventListener("abort", stop);
  try {
    return await work(control.signal);
  } finally {
    clearTimeout(patience);
    stopped?.removeEventListener("abort", stop);
  }
};

export class Refused extends Error {
  constructor(said, status, retryAfter = null) {
    const problem = said.detail ? said : (BARE[status] ?? said);
    super(problem.detail ? reason(problem.detail) : `The server answered ${status}.`);
    this.code = problem.code || "refused";
    this.status = status;
    this.retryAfterS = Number(retryAfter) || 0;
  }
}

export class Server {
  constructor(base, token) {
    this.base = new URL(base, location.href).href.replace(/\/?$/, "/");
    this.token = token;
    this.isOurs = new URL(this.base).origin === location.origin;
  }

  url(path) {
    return new URL(path, this.base).href;
  }

  // What the server names begins with a slash of its own.
  link(path) {
    return new URL(path, new URL(this.base).origin).href;
  }

  headers(others) {
    return this.token ? { ...others, Authorization: `Bearer ${this.token}` } : others;
  }

  socketUrl() {
    const address = new URL("ws", this.base);
    address.protocol = address.protocol.replace("http", "ws");
    if (this.token) address.searchParams.set("token", this.token);
    return address.href;
  }

  // Raises Refused, or an Error when nobody answers.
  async fetch(address, options = {}) {
    let answer;
    try {
      answer = await fetch(address, { ...options, headers: this.headers(options.headers) });
    } catch (error) {
      throw options.signal?.aborted ? error : new Error(AWAY);
    }
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(problem, answer.status, answer.headers.get("Retry-After"));
  }

  async send(method, path, ms = ANSWER_MS) {
    return within(ms, async (signal) => {
      const answer = await this.fetch(this.url(path), { method, signal });
      return answer.status === 204 ? {} : await answer.json();
    });
  }

  async get(path) {
    return this.send("GET", path);
  }

  // The first `limit` characters of a file, and whether there are more.
  async text(path, limit) {
    const answer = await this.fetch(this.link(path));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    while (text.length <= limit) {
      const { value, done } = await reader.read();
      if (done) return { text, more: false };
      text += value;
    }
    reader.cancel().catch(() => {});
    return { text: text.slice(0, limit), more: true };
  }

  // An address that an <img> can show. From elsewhere the picture has to be fetched:
  // an image element sends neither the token nor the page's origin.
  async picture(path) {
    const address = `${this.link(path)}?inline=1`;
    if (this.isOurs && !this.token) return address;
    const answer = await this.fetch(address);
    return URL.createObjectURL(await answer.blob());
  }

  // Saves a file for which a plain link would lack the token.
  async save(address) {
    const answer = await within(ANSWER_MS, (signal) => this.fetch(address, { signal }));
    const said = answer.headers.get("Content-Disposition") || "";
    const name = /filename\*=UTF-8''([^;]+)/.exec(said) || /filename="([^"]*)"/.exec(said);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = name ? decodeURIComponent(name[1]) : "download";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}
