// One resumable upload by tus 1.0 (https://tus.io/protocols/resumable-upload).
//
// Rules
// - What the server has is asked for before each attempt; nothing is sent twice.
// - A lost network, a 5xx or a 409 is tried again with growing pauses, for ever, until
//   the person pauses or cancels; a refusal (other 4xx) ends the upload with its reason.
// - What somebody has ended, here or elsewhere, is sent anew only when a person says so.
// - A cancel is over when the server has nothing of the file any more, not before: also
//   when nobody knows whether the server has heard of it, because an answer was lost.
// - A connection that stalls counts as a lost one.
// - A file that was changed or removed meanwhile cannot be sent any more: the browser
//   then breaks off each request, and only reading the file tells that from the network.
// - One attempt runs at a time, however fast somebody presses Pause and Resume.

import { Refused, within } from "./server.js";

const VERSION = { "Tus-Resumable": "1.0.0" };
const PAUSES_S = [0, 1, 2, 5, 10, 20];
const MAY_PASS = new Set([408, 409, 423, 425, 429]);
const BARRED = new Set([401, 403]);
// these are said to a creation only if none came before with its key
const FULL = new Set([
  "backlog_full",
  "disk_full",
  "quota_exceeded",
  "shutting_down",
  "too_many_uploads",
]);
const GONE = new Set([404, 410]);
// a connection on which nothing moves for so long is given up
const STALL_MS = 60_000;
// the server takes metadata of 8 KiB in all; a path that is longer than this is not told
const MAX_PATH = 1000;
const STALLED = "The connection stalled: nothing moved for a minute.";

const CHANGED = {
  code: "file_changed",
  detail: "this file was changed or removed after it was chosen: choose it once more",
};
const CANCELLED = {
  code: "cancelled",
  detail: "it was cancelled on the server or in another window",
};
const DELETED = { code: "deleted", detail: "it was deleted from the server" };

const encode = (text) =>
  btoa(Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join(""));

export class Upload {
  // `known` is what the browser remembers of the file, and `file` null where it was not
  // chosen again; `server` makes addresses and headers, `tell(upload, error)` hears of
  // every change.
  constructor(file, known, server, tell) {
    this.file = file;
    this.known = known;
    this.server = server;
    this.tell = tell;
    this.id = known.id;
    this.offset = 0;
    this.state = "waiting";
    this.failures = 0;
    this.control = new AbortController();
    this.before = Promise.resolve();
    // ends the pause before the next attempt; null when there is none
    this.hurry = null;
    // names a creation until its answer has come
    this.once = known.once;
    // a cancel that is not over yet
    this.ending = null;
  }

  // Goes on until the file is sent, refused, paused or cancelled.
  run() {
    this.before = this.before.then(() => this.attempts());
    return this.before;
  }

  async attempts() {
    if (this.state !== "waiting") return;
    this.state = "uploading";
    this.control = new AbortController();
    this.tell(this);
    let refusal = null;
    while (this.state === "uploading") {
      try {
        await this.attempt();
      } catch (error) {
        refusal = await this.judge(error);
      }
    }
    this.tell(this, refusal);
  }

  // Returns why the upload is over; null when it is not, after a pause.
  async judge(error) {
    if (this.state !== "uploading") return null;
    const end = await this.endBy(error);
    if (this.state !== "uploading") return null;
    if (end) this.state = "refused";
    else await this.pauseAfter(error);
    return end;
  }

  async endBy(error) {
    if (!(await this.isReadable())) {
      // what the server keeps nevertheless expires
      await this.forget().catch(() => {});
      return new Refused(CHANGED, 0);
    }
    if (GONE.has(error.status) && this.id !== null) return this.whyGone();
    return mayPass(error) ? null : error;
  }

  async isReadable() {
    try {
      await this.file.slice(this.offset, this.offset + 1).arrayBuffer();
      return true;
    } catch {
      return false;
    }
  }

  // Its job says why an upload is gone. Only what nobody ended begins anew by itself.
  async whyGone() {
    let job;
    try {
      job = await (await this.request("GET", `status/${this.id}`)).json();
    } catch (error) {
      if (error.code !== "job_not_found") return mayPass(error) ? null : error;
      job = { status: "gone", error: DELETED };
    }
    if (job.status === "UPLOADING") return null;
    this.id = null;
    if (job.error?.code === "expired") return null;
    return new Refused(job.status === "CANCELLED" ? CANCELLED : (job.error ?? {}), 410);
  }

  async pauseAfter(error) {
    const usual = PAUSES_S[Math.min(this.failures, PAUSES_S.length - 1)];
    const wait = Math.max(usual, error.retryAfterS ?? 0);
    this.failures += 1;
    const told = wait > 1 || error.message === STALLED ? error : null;
    if (wait > 0) await this.wait(wait, told);
    if (this.state === "uploading" || this.state === "cancelled") this.tell(this, told);
  }

  async wait(seconds, error) {
    await new Promise((done) => {
      const end = () => {
        this.hurry = null;
        clearTimeout(timer);
        removeEventListener("online", end);
        this.control.signal.removeEventListener("abort", end);
        done();
      };
      const timer = setTimeout(end, seconds * 1000);
      addEventListener("online", end);
      this.control.signal.addEventListener("abort", end);
      this.hurry = end;
      this.tell(this, error);
    });
  }

  async attempt() {
    if (this.id === null) await this.create();
    else await this.ask();
    if (this.state !== "uploading") return;
    if (this.offset < this.file.size) await this.send();
    if (this.offset >= this.file.size && this.state === "uploading") this.state = "sent";
  }

  // `stopped` tells when somebody stops it.
  async request(method, path, headers = {}, stopped = this.control.signal) {
    const ask = (signal) => {
      const options = { method, headers: { ...VERSION, ...headers }, signal };
      return this.server.fetch(this.server.url(path), options);
    };
    return within(STALL_MS, ask, STALLED, stopped);
  }

  // Runs to its end whatever somebody presses: only the answer tells what was made. If
  // that is lost, the same key finds it.
  async create() {
    const { name, type, path, size } = this.known;
    if (this.once === null) {
      this.once = crypto.getRandomValues(new Uint32Array(4)).join("-");
      this.tell(this);
    }
    const about = [`filename ${encode(name)}`];
    if (type) about.push(`filetype ${encode(type)}`);
    if (path && path.length <= MAX_PATH) about.push(`relativePath ${encode(path)}`);
    const headers = {
      "Idempotency-Key": this.once,
      "Upload-Length": String(size),
      "Upload-Metadata": about.join(","),
    };
    let answer;
    try {
      answer = await this.request("POST", "files/", headers, null);
    } catch (error) {
      if (isNothingMade(error)) this.once = null;
      throw error;
    }
    this.once = null;
    this.id = answer.headers.get("Asyncflow-Job-Id");
    this.offset = 0;
    this.tell(this);
  }

  async ask() {
    const answer = await this.request("HEAD", `files/${this.id}`);
    this.offset = Number(answer.headers.get("Upload-Offset"));
    this.tell(this);
  }

  // XMLHttpRequest, because fetch tells no progress of what it sends.
  send() {
    return new Promise((done, failed) => {
      const request = new XMLHttpRequest();
      const from = this.offset;
      const stop = () => request.abort();
      let isStalled = false;
      const giveUp = () => {
        isStalled = true;
        stop();
      };
      let stalled = setTimeout(giveUp, STALL_MS);
      this.control.signal.addEventListener("abort", stop);
      request.open("PATCH", this.server.url(`files/${this.id}`));
      const headers = this.server.headers({
        ...VERSION,
        "Upload-Offset": String(from),
        "Content-Type": "application/offset+octet-stream",
      });
      for (const [name, value] of Object.entries(headers)) {
        request.setRequestHeader(name, value);
      }
      request.upload.onprogress = (event) => {
        clearTimeout(stalled);
        stalled = setTimeout(giveUp, STALL_MS);
        if (this.state !== "uploading") return;
        this.offset = from + event.loaded;
        this.tell(this);
      };
      request.onloadend = () => {
        clearTimeout(stalled);
        this.control.signal.removeEventListener("abort", stop);
        if (request.status === 204) {
          this.offset = Number(request.getResponseHeader("Upload-Offset"));
          this.failures = 0;
          done();
        } else if (request.status === 0) {
          failed(new Error(isStalled ? STALLED : "The connection was lost."));
        } else {
          failed(refusal(request));
        }
      };
      request.send(this.file.slice(from));
    });
  }

  pause() {
    this.stop("paused");
  }

  // Rests until it is run again.
  rest() {
    if (this.state === "uploading") this.stop("waiting");
  }

  resume() {
    this.state = "waiting";
    this.failures = 0;
    this.tell(this);
  }

  // Ends when the server has nothing of the file any more; raises when it refuses that.
  cancel() {
    this.failures = 0;
    this.stop("cancelled");
    this.ending ??= this.letGo().finally(() => {
      this.ending = null;
    });
    return this.ending;
  }

  async letGo() {
    await this.before;
    for (;;) {
      try {
        await this.forget();
        return;
      } catch (error) {
        if (!mayPass(error)) throw error;
        await this.pauseAfter(error);
      }
    }
  }

  // Lets the server forget what it has of the file; its last byte may have made it a job.
  async forget() {
    if (this.id === null && this.once !== null) await this.find();
    if (this.id === null) return;
    const forget = (path) =>
      this.request("DELETE", path, {}, null).catch((error) => {
        if (!GONE.has(error.status)) throw error;
      });
    try {
      await forget(`files/${this.id}`);
    } catch (error) {
      if (error.code !== "upload_complete") throw error;
      await forget(`jobs/${this.id}`);
    }
  }

  // Finds what a creation has made whose answer was lost, by asking for it once more.
  async find() {
    try {
      await this.create();
    } catch (error) {
      if (this.once !== null) throw error;
    }
  }

  stop(state) {
    this.state = state;
    this.control.abort();
    this.tell(this);
  }
}

// 409 and the like, a server that is unwell, and a network that is away
const mayPass = (error) =>
  !(error instanceof Refused) || MAY_PASS.has(error.status) || error.status >= 500;

// Whether the server said that it has made nothing, whatever was asked before.
const isNothingMade = (error) =>
  FULL.has(error.code) || !(mayPass(error) || BARRED.has(error.status));

const refusal = (request) => {
  let problem = {};
  try {
    problem = JSON.parse(request.responseText);
  } catch {
    // no problem document: the status says it
  }
  return new Refused(problem, request.status, request.getResponseHeader("Retry-After"));
};
