// One resumable upload by tus 1.0 (https://tus.io/protocols/resumable-upload).
//
// Rules
// - What the server has is asked for before each attempt; nothing is sent twice.
// - A lost network, a 5xx or a 409 is tried again with growing pauses, for ever, until
//   the person pauses or cancels; a refusal (other 4xx) ends the upload with its reason.
// - `key` remembers the upload in this browser, so that a reload can go on with it.

const VERSION = { "Tus-Resumable": "1.0.0" };
const PAUSES_S = [0, 1, 2, 5, 10, 20];

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail || `The server answered ${status}.`);
    this.code = problem.code || "refused";
    this.status = status;
  }
}

const encode = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

const read = async (answer) => {
  try {
    return await answer.json();
  } catch {
    return {};
  }
};

export class Upload {
  // `server` makes addresses and headers; `tell(state)` hears of every change.
  constructor(file, server, tell, known = null) {
    this.file = file;
    this.server = server;
    this.tell = tell;
    this.id = known;
    this.offset = 0;
    this.state = "waiting";
    this.failures = 0;
    this.wake = null;
    this.request = null;
  }

  async run() {
    this.state = "uploading";
    while (this.state === "uploading") {
      try {
        await this.step();
      } catch (error) {
        if (this.state !== "uploading") break;
        if (error instanceof Refused && !this.mayPass(error)) {
          this.state = "refused";
          this.tell(this, error);
          return;
        }
        await this.pauseAfter(error);
      }
    }
    this.tell(this);
  }

  // 404 and 410 mean that the server forgot the upload: begin anew.
  mayPass(error) {
    if (error.status === 404 || error.status === 410) {
      this.id = null;
      return true;
    }
    return error.status === 409 || error.status === 423 || error.status >= 500;
  }

  async pauseAfter(error) {
    const pause = PAUSES_S[Math.min(this.failures, PAUSES_S.length - 1)];
    this.failures += 1;
    this.tell(this, pause > 1 ? error : null);
    await new Promise((done) => {
      this.wake = done;
      setTimeout(done, pause * 1000);
      addEventListener("online", done, { once: true });
    });
  }

  async step() {
    if (this.id === null) await this.create();
    else await this.ask();
    if (this.offset < this.file.size) await this.send();
    if (this.offset >= this.file.size) this.state = "sent";
  }

  async create() {
    const about = [`filename ${encode(this.file.name)}`];
    if (this.file.type) about.push(`filetype ${encode(this.file.type)}`);
    const answer = await fetch(this.server.url("files/"), {
      method: "POST",
      headers: this.server.headers({
        ...VERSION,
        "Upload-Length": String(this.file.size),
        "Upload-Metadata": about.join(","),
      }),
    });
    if (answer.status !== 201) throw new Refused(await read(answer), answer.status);
    this.id = answer.headers.get("Asyncflow-Job-Id");
    this.offset = 0;
    this.tell(this);
  }

  async ask() {
    const answer = await fetch(this.server.url(`files/${this.id}`), {
      method: "HEAD",
      headers: this.server.headers(VERSION),
    });
    if (!answer.ok) throw new Refused({}, answer.status);
    this.offset = Number(answer.headers.get("Upload-Offset"));
    this.tell(this);
  }

  // XMLHttpRequest, because fetch tells no progress of what it sends.
  send() {
    return new Promise((done, failed) => {
      const request = new XMLHttpRequest();
      const from = this.offset;
      this.request = request;
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
        this.offset = from + event.loaded;
        this.tell(this);
      };
      request.onerror = () => failed(new Error("The connection was lost."));
      request.onabort = () => failed(new Error("The upload was stopped."));
      request.onload = () => {
        if (request.status !== 204) {
          let problem = {};
          try {
            problem = JSON.parse(request.responseText);
          } catch {
            // no problem document: the status says it
          }
          failed(new Refused(problem, request.status));
          return;
        }
        this.offset = Number(request.getResponseHeader("Upload-Offset"));
        this.failures = 0;
        done();
      };
      request.send(this.file.slice(from));
    });
  }

  pause() {
    this.stop("paused");
  }

  async cancel() {
    this.stop("cancelled");
    if (this.id === null) return;
    await fetch(this.server.url(`files/${this.id}`), {
      method: "DELETE",
      headers: this.server.headers(VERSION),
    }).catch(() => {});
  }

  stop(state) {
    this.state = state;
    if (this.request !== null) this.request.abort();
    if (this.wake !== null) this.wake();
    this.tell(this);
  }
}
