// <asyncflow-uploader endpoint="https://files.example.org/" token="…">
//
// The whole upload page as one element: choose, drop or paste files; each becomes a
// card with its upload, its steps and its results. `endpoint` is where the server is
// (default: beside this script), `token` is only needed where the server demands one
// and no cookie is set. Fires `asyncflow-completed` with the job as `detail`.

import { Card } from "./card.js";
import { Server } from "./server.js";
import { Upload } from "./upload.js";
import { Memory } from "./memory.js";
import { Watcher } from "./watch.js";

const AT_ONCE = 3;

const TEMPLATE = `
<link rel="stylesheet">
<div class="drop">
  <p class="hint">Drop files or folders here, paste them, or</p>
  <p class="choose">
    <label class="button main"><input class="files" type="file" multiple>Choose files</label>
    <label class="button"><input class="folder" type="file" webkitdirectory>Choose a folder</label>
  </p>
  <p class="limits"></p>
</div>
<p class="offline" hidden>You are offline. Uploads go on when the network is back.</p>
<ul class="cards" aria-label="Files"></ul>
<p class="live" role="status" aria-live="polite"></p>
`;

export class Uploader extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return;
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML = TEMPLATE;
    root.querySelector("link").href = new URL("uploader.css", import.meta.url).href;
    this.server = new Server(
      this.getAttribute("endpoint") || new URL("..", import.meta.url).href,
      this.getAttribute("token"),
    );
    this.memory = new Memory(this.server.base);
    this.cards = new Map();
    this.waiting = [];
    this.running = new Set();
    this.watcher = new Watcher(this.server, (job, message) => this.hear(job, message));
    this.list = root.querySelector(".cards");
    this.live = root.querySelector(".live");
    this.bind(root);
    this.showLimits(root.querySelector(".limits"));
    this.restore();
  }

  bind(root) {
    const drop = root.querySelector(".drop");
    for (const input of root.querySelectorAll("input[type=file]")) {
      input.addEventListener("change", () => {
        this.add([...input.files]);
        input.value = "";
      });
    }
    drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", async (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      this.add(await dropped(event.dataTransfer));
    });
    document.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length > 0) this.add(files);
    });
    const offline = root.querySelector(".offline");
    const show = () => {
      offline.hidden = navigator.onLine;
    };
    addEventListener("online", show);
    addEventListener("offline", show);
    addEventListener("beforeunload", (event) => {
      if (this.running.size > 0) event.preventDefault();
    });
    show();
  }

  async showLimits(place) {
    try {
      const can = await this.server.get("capabilities");
      const { size } = await import("./words.js");
      const types = can.types.length > 0 ? can.types.join(", ") : "any type";
      place.textContent = `Up to ${size(can.limits.maxUploadBytes)} each, ${types}.`;
    } catch {
      place.textContent = "";
    }
  }

  say(text) {
    this.live.textContent = text;
  }

  // What this browser has sent before: unfinished uploads ask for their file again.
  restore() {
    for (const known of this.memory.all()) this.open(known, null);
  }

  open(known, file) {
    const card = new Card(known.name, known.size, {
      pause: () => this.pause(card),
      resume: () => this.resume(card),
      cancel: () => this.cancel(card),
      retry: () => this.retry(card),
      remove: () => this.remove(card),
      give: (again) => this.give(card, again),
    });
    card.known = known;
    card.file = file;
    card.server = this.server;
    this.list.prepend(card.element);
    if (known.id) {
      this.cards.set(known.id, card);
      this.watcher.watch(known.id);
    }
    return card;
  }

  add(files) {
    for (const file of files) {
      const again = this.unfinished(file);
      if (again) {
        this.give(again, file);
        continue;
      }
      const known = Memory.about(file);
      this.start(this.open(known, file), file);
    }
    if (files.length > 0) {
      this.say(files.length === 1 ? `${files[0].name} added` : `${files.length} files added`);
    }
  }

  unfinished(file) {
    return [...this.cards.values()].find(
      (card) => card.wantsFile && Memory.matches(card.known, file),
    );
  }

  give(card, file) {
    if (!Memory.matches(card.known, file)) {
      card.complain(`That is another file: ${card.known.name} is needed to go on.`);
      return;
    }
    card.file = file;
    this.start(card, file);
  }

  start(card, file) {
    card.upload = new Upload(
      file,
      this.server,
      (upload, error) => this.moved(card, upload, error),
      card.known.id,
    );
    card.showUpload(card.upload);
    this.waiting.push(card);
    this.next();
  }

  next() {
    while (this.running.size < AT_ONCE && this.waiting.length > 0) {
      const card = this.waiting.shift();
      if (card.upload.state !== "waiting") continue;
      this.running.add(card);
      card.upload.run().finally(() => {
        this.running.delete(card);
        this.next();
      });
    }
  }

  moved(card, upload, error) {
    if (upload.id !== null && card.known.id !== upload.id) {
      this.cards.delete(card.known.id);
      card.known.id = upload.id;
      this.cards.set(upload.id, card);
      this.memory.keep(card.known);
    }
    card.showUpload(upload, error);
    if (upload.state === "sent") this.watcher.watch(upload.id);
    if (upload.state === "refused") {
      this.memory.drop(card.known.id);
      this.say(`${card.known.name} was refused: ${error.message}`);
    }
  }

  hear(job, message) {
    const card = this.cards.get(job);
    if (!card) return;
    if (message.type === "error" || message.type === "job.deleted") {
      this.memory.drop(job);
      card.gone();
      return;
    }
    const before = card.state;
    card.hear(message);
    if (card.state === before) return;
    this.say(`${card.known.name}: ${card.stateText}`);
    if (card.state === "COMPLETED") {
      this.dispatchEvent(
        new CustomEvent("asyncflow-completed", { detail: card.job, bubbles: true }),
      );
    }
  }

  pause(card) {
    card.upload.pause();
  }

  resume(card) {
    card.upload.state = "waiting";
    card.upload.failures = 0;
    card.showUpload(card.upload);
    this.waiting.push(card);
    this.next();
  }

  async cancel(card) {
    if (card.upload && card.upload.state !== "sent") {
      await card.upload.cancel();
      this.remove(card);
      return;
    }
    await this.server.send("POST", `jobs/${card.known.id}/cancel`);
  }

  async retry(card) {
    if (card.upload?.state === "refused") {
      this.resume(card);
      return;
    }
    try {
      await this.server.send("POST", `jobs/${card.known.id}/retry`);
      this.watcher.watch(card.known.id);
    } catch (error) {
      card.complain(error.message);
    }
  }

  remove(card) {
    const following = card.element.nextElementSibling ?? card.element.previousElementSibling;
    card.element.remove();
    if (card.known.id) {
      this.memory.drop(card.known.id);
      this.watcher.forget(card.known.id);
      this.cards.delete(card.known.id);
    }
    const focus = following?.querySelector("button") ?? this.shadowRoot.querySelector(".files");
    focus.focus();
    this.say(`${card.known.name} removed from the list`);
  }
}

// Files of a drop, folders opened.
const dropped = async (transfer) => {
  const entries = [...transfer.items]
    .map((item) => item.webkitGetAsEntry?.())
    .filter((entry) => entry);
  if (entries.length === 0) return [...transfer.files];
  return (await Promise.all(entries.map(unfold))).flat();
};

const unfold = async (entry) => {
  if (entry.isFile) {
    return [await new Promise((done, failed) => entry.file(done, failed))];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (some.length === 0) break;
    found.push(...(await Promise.all(some.map(unfold))).flat());
  }
  return found;
};

customElements.define("asyncflow-uploader", Uploader);
