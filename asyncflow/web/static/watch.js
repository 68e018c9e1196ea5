// Follow jobs: one WebSocket for all of them, else server-sent events, else polling.
//
// Rules
// - Each way begins with a full snapshot, so that switching or reconnecting misses
//   nothing; a job is given up once its terminal message has come.
// - The way that works is kept; one that failed twice in a row is left for the next.

const LAST = new Set([
  "job.completed",
  "job.failed",
  "job.rejected",
  "job.cancelled",
  "job.deleted",
]);
const FINAL = new Set(["COMPLETED", "FAILED", "REJECTED", "CANCELLED"]);
const POLL_MS = 1500;

export class Watcher {
  // `tell(jobId, message)` hears every message in the order in which they come.
  constructor(server, tell) {
    this.server = server;
    this.tell = tell;
    this.jobs = new Set();
    this.socket = null;
    this.sources = new Map();
    this.polls = new Map();
    this.failures = 0;
    this.way = "socket";
  }

  watch(job) {
    if (this.jobs.has(job)) return;
    this.jobs.add(job);
    this.begin(job);
  }

  forget(job) {
    this.jobs.delete(job);
    this.sources.get(job)?.close();
    this.sources.delete(job);
    clearTimeout(this.polls.get(job));
    this.polls.delete(job);
    if (this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ unsubscribe: [job] }));
    }
    if (this.jobs.size === 0) this.close();
  }

  close() {
    this.socket?.close();
    this.socket = null;
  }

  begin(job) {
    if (this.way === "socket") this.bySocket(job);
    else if (this.way === "events") this.byEvents(job);
    else this.byPolling(job);
  }

  hear(message) {
    const job = message.jobId;
    if (!this.jobs.has(job)) return;
    this.tell(job, message);
    const over = message.type === "snapshot" && FINAL.has(message.job.status);
    if (over || LAST.has(message.type)) this.forget(job);
  }

  bySocket(job) {
    if (this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ subscribe: [job] }));
    }
    if (this.socket !== null) return;
    const socket = new WebSocket(this.server.socketUrl());
    this.socket = socket;
    socket.onopen = () => {
      this.failures = 0;
      socket.send(JSON.stringify({ subscribe: [...this.jobs] }));
    };
    socket.onmessage = (event) => this.hear(JSON.parse(event.data));
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.again("events");
    };
  }

  again(next) {
    if (this.jobs.size === 0) return;
    this.failures += 1;
    if (this.failures > 2) {
      this.failures = 0;
      this.way = next;
    }
    setTimeout(() => this.jobs.forEach((job) => this.begin(job)), 500 * this.failures);
  }

  byEvents(job) {
    if (this.sources.has(job)) return;
    const source = new EventSource(this.server.eventsUrl(job));
    this.sources.set(job, source);
    source.onmessage = (event) => {
      this.failures = 0;
      this.hear(JSON.parse(event.data));
    };
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return;
      this.sources.delete(job);
      if (this.jobs.has(job)) this.again("polling");
    };
  }

  async byPolling(job) {
    if (this.polls.has(job)) return;
    this.polls.set(job, 0);
    try {
      const answer = await fetch(this.server.url(`status/${job}`), {
        headers: this.server.headers({}),
      });
      if (answer.ok) {
        this.hear({ type: "snapshot", jobId: job, job: await answer.json() });
      } else if (answer.status === 404) {
        this.hear({ type: "job.deleted", jobId: job });
      }
    } catch {
      // offline: the next round asks again
    }
    this.polls.delete(job);
    if (this.jobs.has(job)) {
      this.polls.set(
        job,
        setTimeout(() => {
          this.polls.delete(job);
          this.begin(job);
        }, POLL_MS),
      );
    }
  }
}
