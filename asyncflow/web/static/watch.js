// Follow jobs: one WebSocket for all of them, else server-sent events, else polling.
//
// Rules
// - Each way begins with a full snapshot, so that switching or reconnecting misses
//   nothing; a job is given up once its terminal message has come.
// - A way is left for the next one when it fails twice although the server answers an
//   ordinary request: a server that is away is waited for, not blamed on the way.
//   To say nothing for five seconds is to fail: much that stands in between swallows
//   what it does not know, and a browser waits for minutes.
// - The server says something at least every fifteen seconds. A way that is silent for
//   three times as long has failed, too: a router may have forgotten the connection, and
//   nobody tells the browser. Only one that still speaks after a while has not failed.
// - Until a way speaks after a failure, its jobs are polled: nobody waits for it.
// - A socket carries a thousand jobs; those beyond are polled until there is room.
// - A browser opens six connections to a server. Streams take two of them, polling one,
//   so that uploads always find one.

import { FINAL } from "./states.js";

const BARRED = new Set([401, 403]);
const LAST = new Set([
  "job.completed",
  "job.failed",
  "job.rejected",
  "job.cancelled",
  "job.deleted",
]);
const NEXT = { socket: "events", events: "polling" };
const STREAMS = 2;
// less than the server takes, and a message with so many ids is one that it reads
const ON_SOCKET = 900;
const POLL_MS = 1500;
const FIRST_WORD_MS = 5000;
const SILENCE_MS = 45_000;
const LASTS_MS = 20_000;
const MAX_PAUSE_MS = 10_000;

// Waits for the first word of a way, and then for each next one.
class Patience {
  constructor(lost) {
    this.lost = lost;
    this.began = performance.now();
    this.timer = setTimeout(lost, FIRST_WORD_MS);
  }

  // Tells whether the way has lasted for a while.
  renew() {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.lost, SILENCE_MS);
    return performance.now() - this.began > LASTS_MS;
  }

  end() {
    clearTimeout(this.timer);
  }
}

export class Watcher {
  // `tell(jobId, message)` hears every message in the order in which they come,
  // `bar(reason)` why the server answers this page no more; null: it does again.
  constructor(server, tell, bar) {
    this.server = server;
    this.tell = tell;
    this.bar = bar;
    this.jobs = new Set();
    this.isOpen = false;
    this.way = "socket";
    this.socket = null;
    this.isSpeaking = false;
    // the jobs that the open socket was asked for
    this.subscribed = new Set();
    this.streams = new Map();
    // the jobs whose streams speak
    this.streamed = new Set();
    this.polling = false;
    this.pausing = false;
    // ends of the pauses that are being made
    this.ends = new Set();
    this.failures = 0;
    this.silent = 0;
  }

  watch(job) {
    if (this.jobs.has(job)) return;
    this.jobs.add(job);
    this.begin();
  }

  forget(job) {
    if (!this.jobs.delete(job)) return;
    this.streams.get(job)?.abort();
    this.drop(job);
    if (this.subscribed.delete(job)) this.wish({ unsubscribe: [job] });
    if (this.jobs.size === 0) this.hangUp();
    else this.begin();
  }

  // Nothing is asked before, nor after `close`.
  open() {
    this.isOpen = true;
    this.begin();
  }

  // There is reason to hope: what waits before its next try shall not.
  hurry() {
    for (const end of this.ends) end();
  }

  close() {
    this.isOpen = false;
    this.hangUp();
  }

  hangUp() {
    this.leave();
    for (const stream of this.streams.values()) stream.abort();
    this.streams.clear();
    this.streamed.clear();
  }

  leave() {
    const { socket } = this;
    this.socket = null;
    this.isSpeaking = false;
    this.subscribed.clear();
    socket?.close();
  }

  drop(job) {
    this.streams.delete(job);
    this.streamed.delete(job);
  }

  begin() {
    if (!this.isOpen || this.jobs.size === 0 || this.pausing) return;
    if (this.way === "socket") {
      this.bySocket();
      return;
    }
    if (this.way === "events") {
      for (const job of this.jobs) {
        if (this.streams.size >= STREAMS) break;
        if (!this.streams.has(job)) this.byEvents(job);
      }
    }
    this.byPolling();
  }

  hear(message) {
    const job = message.jobId;
    if (!this.isOpen || !this.jobs.has(job)) return;
    this.bar(null);
    this.tell(job, message);
    const over = message.type === "snapshot" && FINAL.has(message.job.status);
    if (over || LAST.has(message.type) || message.type === "error") this.forget(job);
  }

  bySocket() {
    if (this.socket !== null) {
      this.subscribe();
      return;
    }
    let socket;
    try {
      socket = new WebSocket(this.server.socketUrl());
    } catch {
      // forbidden by the policy of the page around us
      this.again();
      return;
    }
    this.socket = socket;
    const lost = () => {
      patience.end();
      if (this.socket !== socket) return;
      this.leave();
      this.again();
    };
    const patience = new Patience(lost);
    socket.onopen = () => this.subscribe();
    socket.onmessage = (event) => {
      if (this.socket !== socket) return;
      this.isSpeaking = true;
      if (patience.renew()) this.failures = 0;
      this.hear(JSON.parse(event.data));
    };
    socket.onclose = lost;
  }

  // Asks an open socket for as many jobs as it may carry.
  subscribe() {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    const more = [];
    for (const job of this.jobs) {
      if (this.subscribed.size >= ON_SOCKET) break;
      if (this.subscribed.has(job)) continue;
      this.subscribed.add(job);
      more.push(job);
    }
    if (more.length > 0) this.wish({ subscribe: more });
    if (this.subscribed.size < this.jobs.size) this.byPolling();
  }

  wish(what) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(what));
  }

  // fetch instead of EventSource: it can send the token, and tells why it failed.
  async byEvents(job) {
    const control = new AbortController();
    this.streams.set(job, control);
    // a proxy may also keep everything to itself until the end
    const patience = new Patience(() => control.abort());
    try {
      const answer = await fetch(this.server.url(`jobs/${job}/events`), {
        headers: this.server.headers({ Accept: "text/event-stream" }),
        signal: control.signal,
      });
      if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
      await this.read(answer, () => {
        if (patience.renew()) this.failures = 0;
        if (this.streams.get(job) === control) this.streamed.add(job);
      });
      if (this.streams.get(job) === control) throw new Error("The stream broke off.");
    } catch {
      if (this.streams.get(job) !== control) return;
      this.drop(job);
      this.again();
    } finally {
      patience.end();
    }
  }

  async read(answer, speaks) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      speaks();
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        const line = event.split("\n").find((one) => one.startsWith("data: "));
        if (line) this.hear(JSON.parse(line.slice(6)));
      }
    }
  }

  // Asks for one job after the other, so that many cost no more than a few.
  async byPolling() {
    if (this.polling) return;
    this.polling = true;
    for (;;) {
      const asked = [...this.jobs].filter((job) => this.isUnheard(job));
      if (asked.length === 0) break;
      for (const job of asked) {
        if (!this.isUnheard(job)) continue;
        await this.poll(job);
        await this.pause(Math.max(POLL_MS / asked.length, 100));
      }
    }
    this.polling = false;
  }

  isUnheard(job) {
    const bySocket = this.isSpeaking && this.subscribed.has(job);
    const isFollowed = bySocket || this.streamed.has(job);
    return this.isOpen && this.jobs.has(job) && !isFollowed;
  }

  // Tells whether the server answered as it does when all is well.
  async poll(job) {
    try {
      const told = await this.server.get(`status/${job}`);
      // what a way has said meanwhile is newer
      if (this.isUnheard(job)) this.hear({ type: "snapshot", jobId: job, job: told });
      return true;
    } catch (error) {
      const isBarred = BARRED.has(error.status);
      if (isBarred) this.bar(error.message);
      if (error.code === "job_not_found") this.hear({ type: "job.deleted", jobId: job });
      return error.status < 500 && !isBarred;
    }
  }

  async again() {
    if (!this.isOpen || this.pausing || this.jobs.size === 0) return;
    this.pausing = true;
    const [job] = this.jobs;
    if (await this.poll(job)) {
      this.silent = 0;
      this.failures += 1;
      if (this.failures >= 2 && this.way in NEXT) {
        this.failures = 0;
        this.way = NEXT[this.way];
      }
      this.byPolling();
    } else {
      this.silent += 1;
    }
    await this.pause(Math.min(250 * 2 ** this.silent, MAX_PAUSE_MS));
    this.pausing = false;
    this.begin();
  }

  // Ends early when the network comes back.
  pause(ms) {
    return new Promise((done) => {
      const end = () => {
        clearTimeout(timer);
        removeEventListener("online", end);
        this.ends.delete(end);
        done();
      };
      const timer = setTimeout(end, ms);
      addEventListener("online", end);
      this.ends.add(end);
    });
  }
}
