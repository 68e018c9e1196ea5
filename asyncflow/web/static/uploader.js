// <asyncflow-uploader endpoint="https://files.example.org/" token="…" whole-page>
//
// The whole upload page as one element: choose, drop or paste files; each becomes a
// card with its upload, its steps and its results. `endpoint` is where the server is
// (default: beside this script), `token` is only needed where the server demands one
// and no cookie is set; both may change at any time. With `whole-page` files may be
// dropped anywhere on the page.
// Taken out of the page it does nothing, put back it goes on. Of several elements each
// has a list of its own, which a reload finds by the element's `id`, else by its turn.
// Fires `asyncflow-completed` with the job as `detail` when a job completes meanwhile.

import { Announcer } from "./announcer.js";
import { Card } from "./card.js";
import { alone, dropped } from "./drop.js";
import { Memory } from "./memory.js";
import { Server } from "./server.js";
import { Sight } from "./sight.js";
import { slices } from "./slices.js";
import { FINAL } from "./states.js";
import { Upload } from "./upload.js";
import { Watcher } from "./watch.js";
import { count, fileTitle, kind, size } from "./words.js";

const AT_ONCE = 3;
// how often the line for all files is written anew
const COUNT_MS = 100;
const FULL =
  "This browser has no room to remember these files. After a reload they are not on this list.";
const forgets = (most) =>
  `This browser remembers the latest ${most} files. After a reload this list ends there; older files stay on the server.`;
const leftOut = (paths) =>
  paths.length === 1
    ? `${paths[0]} could not be read and was left out.`
    : `${paths.length} files or folders could not be read and were left out.`;
// states that somebody who does not see the page wants to hear of
const TOLD = new Set(["uploaded", "paused", "refused", "gone", ...FINAL]);

// Which element shows which list: two that send the same files would disturb each other.
const shown = new Map();
// Drops and pastes that one of the elements on the page has taken.
const taken = new WeakSet();

const TEMPLATE = `
<link rel="stylesheet" crossorigin="anonymous">
<div class="drop">
  <p class="hint">Drop files or folders here, paste them, or</p>
  <p class="choose">
    <label class="button main"><input class="files" type="file" multiple>Choose files</label>
    <label class="button"><input class="folder" type="file" webkitdirectory>Choose a folder</label>
  </p>
  <p class="limits"></p>
</div>
<p class="offline" hidden>You are offline. Uploads go on when the network is back.</p>
<p class="barred" hidden></p>
<div class="summary" hidden><p></p><button type="button">Remove finished from list</button></div>
<p class="unread problem" hidden></p>
<p class="forgotten problem" hidden></p>
<ul class="cards" aria-label="Files"></ul>
<p class="live" role="status"></p>
`;

// The element is also part of somebody else's page: all but what the guide to it names
// is private, so that nothing of ours hides a property that every element has.
export class Uploader extends HTMLElement {
  static observedAttributes = ["endpoint", "token"];

  #ends;
  #renewing;
  #server;
  #memory;
  #all;
  #cards;
  #waiting;
  #running;
  #adding;
  #restored;
  #watcher;
  #sight;
  #list;
  #counting;
  #announcer;
  #summary;

  connectedCallback() {
    // only moved
    if (this.#ends) return;
    // anew, too, when another element has taken over the list meanwhile
    if (shown.get(this.#memory?.prefix) !== this) this.#build();
    this.#ends = new AbortController();
    this.#listen(this.#ends.signal);
    this.#watcher.open();
    this.#waiting = [];
    for (const card of this.#all) if (card.upload?.state === "waiting") this.#enqueue(card);
  }

  // Both together when both are set: no server shall hear the token of another.
  attributeChangedCallback() {
    if (!this.#server || this.#renewing) return;
    this.#renewing = true;
    queueMicrotask(() => {
      this.#renewing = false;
      this.#renew();
    });
  }

  disconnectedCallback() {
    queueMicrotask(() => {
      if (!this.isConnected) this.#rest();
    });
  }

  #rest() {
    if (!this.#ends) return;
    this.#ends.abort();
    this.#ends = null;
    this.#watcher.close();
    for (const card of this.#all) card.upload?.rest();
  }

  #renew() {
    const { base, token } = this.#wanted();
    if (base !== this.#server.base) {
      this.#rest();
      // another server has another list; out of the page it waits to be put back
      shown.delete(this.#memory.prefix);
      if (this.isConnected) this.connectedCallback();
    } else if (token !== this.#server.token) {
      this.#server.token = token;
      this.#unbar();
    }
  }

  // What waits for a token goes on with the new one.
  #unbar() {
    for (const card of this.#all) card.unbar();
    if (!this.#ends) return;
    this.#watcher.hurry();
    this.#showLimits(this.shadowRoot.querySelector(".limits"));
  }

  #wanted() {
    const beside = new URL("..", import.meta.url).href;
    return new Server(this.getAttribute("endpoint") || beside, this.getAttribute("token"));
  }

  #build() {
    const root = this.shadowRoot ?? this.attachShadow({ mode: "open" });
    for (const card of this.#all ?? []) this.#sight.forget(card);
    root.innerHTML = TEMPLATE;
    root.querySelector("link").href = new URL("uploader.css", import.meta.url).href;
    this.#server = this.#wanted();
    this.#memory = this.#ownMemory();
    this.#all = new Set();
    this.#cards = new Map();
    this.#waiting = [];
    this.#running = new Set();
    this.#adding = 0;
    this.#counting = null;
    this.#sight = new Sight();
    const hear = (job, message) => this.#hear(job, message);
    this.#watcher = new Watcher(this.#server, hear, (why) => this.#showBarred(why));
    this.#list = root.querySelector(".cards");
    this.#announcer = new Announcer(root.querySelector(".live"), () => this.#sum());
    this.#summary = root.querySelector(".summary");
    this.#summary.querySelector("button").addEventListener("click", () => this.#tidy());
    for (const input of root.querySelectorAll("input[type=file]")) {
      input.addEventListener("change", () => {
        this.#add(alone(input.files));
        input.value = "";
      });
    }
    this.#showLimits(root.querySelector(".limits"));
    this.#restored = this.#restore();
  }

  #ownMemory() {
    for (let turn = 1; ; turn += 1) {
      const memory = new Memory(this.#server.base, `${this.id}.${turn}`);
      const other = shown.get(memory.prefix);
      if (other && other !== this && other.isConnected) continue;
      shown.set(memory.prefix, this);
      return memory;
    }
  }

  #listen(signal) {
    const zone = this.shadowRoot.querySelector(".drop");
    const place = this.hasAttribute("whole-page") ? document : zone;
    // words and links that are dragged about are none of our business
    const drags = (name, heard) => {
      const files = (event) => {
        if (!event.dataTransfer?.types.includes("Files") || taken.has(event)) return;
        taken.add(event);
        heard(event);
      };
      place.addEventListener(name, files, { signal });
    };
    drags("dragover", (event) => this.#over(event, zone, true));
    drags("dragleave", (event) => this.#over(event, zone, false));
    drags("drop", async (event) => {
      this.#over(event, zone, false);
      this.#add(await dropped(event.dataTransfer));
    });
    document.addEventListener("paste", (event) => this.#paste(event), { signal });
    addEventListener("online", () => this.#showNetwork(), { signal });
    addEventListener("offline", () => this.#showNetwork(), { signal });
    addEventListener(
      "beforeunload",
      (event) => {
        const unsent = this.#running.size + this.#waiting.length + this.#adding;
        const isEnding = [...this.#all].some((card) => card.upload?.ending);
        if (unsent > 0 || isEnding) event.preventDefault();
      },
      { signal },
    );
    this.#showNetwork();
  }

  #over(event, zone, isOver) {
    event.preventDefault();
    zone.classList.toggle("over", isOver);
  }

  // A paste into a field of the page around us is none of our business.
  #paste(event) {
    const path = event.composedPath();
    const [into] = path;
    if (into.isContentEditable || into.matches?.("input, textarea")) return;
    const inside = path.find((one) => one instanceof Uploader) ?? this;
    if (inside !== this || taken.has(event)) return;
    taken.add(event);
    this.#add(alone(event.clipboardData?.files));
  }

  #showNetwork() {
    const offline = this.shadowRoot.querySelector(".offline");
    if (offline.hidden === navigator.onLine) return;
    offline.hidden = navigator.onLine;
    this.#announcer.say(navigator.onLine ? "You are online again." : offline.textContent);
  }

  #showBarred(why) {
    const barred = this.shadowRoot.querySelector(".barred");
    const text = why ? `${why} Reload the page to go on; what was sent is kept.` : "";
    if (barred.textContent === text) return;
    barred.textContent = text;
    barred.hidden = !why;
    if (why) this.#announcer.say(text);
  }

  async #showLimits(place) {
    try {
      const can = await this.#server.get("capabilities");
      const types = can.types.length > 0 ? can.types.map(kind).join(", ") : "almost any type";
      place.textContent = `Up to ${size(can.limits.maxUploadBytes)} each, ${types}.`;
    } catch (error) {
      place.textContent = error.message;
    }
  }

  // What was chosen here before: what is not whole yet asks for its file again, and a
  // cancel that was not over goes on.
  async #restore() {
    const list = this.#list;
    const known = (key) => this.#memory.read(key);
    for await (const some of slices(this.#memory.keys(), known)) {
      // meanwhile another server's has been begun
      if (list !== this.#list) return;
      const cards = some.filter(Boolean).map((one) => this.#open(one, null));
      for (const card of cards) {
        if (card.known.cancelled) card.act("cancel");
        else if (!card.known.id) card.askForFile();
      }
      this.#list.append(...cards.map((card) => card.element));
      this.#count();
    }
  }

  #open(known, file) {
    const card = new Card(known, {
      pause: () => card.upload.pause(),
      resume: () => this.#resume(card),
      now: () => card.upload.hurry?.(),
      cancel: () => this.#cancel(card),
      retry: () => this.#retry(card),
      remove: () => this.#remove(card),
      really: () => this.#erase(card),
      give: (again) => this.#give(card, again),
      say: (text) => this.#announcer.say(`${card.label}: ${text}`),
    });
    card.known = known;
    card.file = file;
    card.server = this.#server;
    this.#all.add(card);
    this.#sight.watch(card);
    if (known.id) {
      this.#cards.set(known.id, card);
      this.#watcher.watch(known.id);
    }
    return card;
  }

  // Thousands at once are nothing that the page stands still for.
  async #add({ files, unread }) {
    this.#showUnread(unread);
    if (files.length === 0) return;
    this.#adding += files.length;
    await this.#restored;
    const told = files.length === 1 ? files[0].file.name : `${files.length} files`;
    this.#announcer.say(`${told} added.`);
    const wanting = this.#wanting();
    const keys = this.#memory.fresh(files.length);
    const here = document.createComment("");
    this.#list.prepend(here);
    let isKept = true;
    const take = ({ file, path }) => {
      this.#adding -= 1;
      const key = keys.shift();
      const again = wanting(file, path);
      if (again) {
        this.#give(again, file);
        return null;
      }
      const card = this.#open(Memory.about(file, path, key), file);
      isKept = this.#memory.keep(card.known) && isKept;
      return card;
    };
    for await (const some of slices(files, take)) {
      const fresh = some.filter(Boolean);
      for (const card of fresh) this.#start(card, card.file);
      here.before(...fresh.map((card) => card.element));
      this.#count();
    }
    here.remove();
    this.#admit(isKept);
  }

  #showUnread(paths) {
    const place = this.shadowRoot.querySelector(".unread");
    place.textContent = paths.length > 0 ? leftOut(paths.map(fileTitle)) : "";
    place.hidden = paths.length === 0;
    if (paths.length > 0) this.#announcer.say(place.textContent);
  }

  // Says what a reload will not know any more.
  #admit(isKept) {
    const forgotten = this.shadowRoot.querySelector(".forgotten");
    const most = this.#memory.prune();
    const told = isKept ? most && forgets(most) : FULL;
    if (!told) return;
    this.#announcer.say(told);
    forgotten.textContent = told;
    forgotten.hidden = false;
  }

  // Finds who waits for a file. One that is chosen alone may be any of its name, one
  // from a folder only that one.
  #wanting() {
    const called = ({ name, size }) => `${size} ${name}`;
    const waiting = new Map();
    for (const card of this.#all) {
      if (!card.wantsFile) continue;
      const those = waiting.get(called(card.known)) ?? [];
      waiting.set(called(card.known), [...those, card]);
    }
    return (file, path) =>
      waiting.get(called(file))?.find((card) => {
        const isHere = !path || path === card.known.path;
        return card.wantsFile && isHere && Memory.matches(card.known, file);
      });
  }

  #give(card, file) {
    if (!Memory.matches(card.known, file)) {
      card.deny(`That is another file. To go on, choose ${card.label} again, unchanged.`);
      return;
    }
    card.file = file;
    this.#start(card, file);
  }

  #start(card, file) {
    const told = (upload, error) => this.#moved(card, upload, error);
    card.upload = new Upload(file, card.known, this.#server, told);
    this.#enqueue(card);
  }

  #enqueue(card) {
    card.showUpload(card.upload);
    this.#waiting.push(card);
    this.#next();
  }

  #next() {
    while (this.#ends && this.#running.size < AT_ONCE && this.#waiting.length > 0) {
      const card = this.#waiting.shift();
      if (card.upload.state !== "waiting") continue;
      const run = card.upload.run();
      this.#running.add(run);
      run.finally(() => {
        this.#running.delete(run);
        this.#next();
      });
    }
  }

  #moved(card, upload, error) {
    this.#remember(card, upload);
    const before = card.state;
    card.showUpload(upload, error);
    card.barred = upload.state === "refused" && error?.status === 401 ? "resume" : null;
    this.#tellHeldUp(card, upload, error);
    if (upload.state === "sent") this.#watcher.watch(upload.id);
    // who lacks the token may still go on with it
    if (upload.state === "refused" && !card.barred) this.#memory.drop(card.known);
    this.#changed(card, before);
  }

  // What an upload or its cancel waits for is told once, not at each try.
  #tellHeldUp(card, upload, error) {
    const what = { uploading: "trying again", cancelled: "cancelling" }[upload.state];
    if (!what || !error) return;
    const told = `${card.label}: ${what}. ${card.problem.textContent}`;
    const heldUp = `${upload.offset} ${told}`;
    if (heldUp !== card.heldUp) this.#announcer.change(card, told);
    card.heldUp = heldUp;
  }

  #remember(card, { id, once }) {
    const { known } = card;
    const isOther = id !== null && known.id !== id;
    if (!isOther && known.once === once) return;
    if (isOther) {
      this.#release(known.id);
      known.id = id;
      this.#cards.set(id, card);
    }
    known.once = once;
    this.#memory.change(known);
  }

  #release(id) {
    if (!id) return;
    this.#cards.delete(id);
    this.#watcher.forget(id);
  }

  #hear(job, message) {
    const card = this.#cards.get(job);
    if (!card) return;
    const before = card.state;
    if (message.type === "job.deleted" || message.code === "job_not_found") {
      this.#memory.drop(card.known);
      card.gone();
    } else {
      card.hear(message);
    }
    this.#changed(card, before);
    if (before && before !== card.state && card.state === "COMPLETED") {
      const options = { detail: card.job, bubbles: true };
      this.dispatchEvent(new CustomEvent("asyncflow-completed", options));
    }
    if (FINAL.has(card.state)) card.rest();
  }

  #changed(card, before) {
    if (card.state === before) return;
    this.#count();
    if (!before || !TOLD.has(card.state)) return;
    const why = [card.problem.textContent, ...card.gaps].filter(Boolean);
    this.#announcer.change(card, [`${card.label}: ${card.stateText}.`, ...why].join(" "));
  }

  // One line for many files, at most some times a second.
  #count() {
    this.#counting ??= setTimeout(() => {
      this.#counting = null;
      this.#summary.hidden = this.#all.size < 2;
      this.#summary.firstChild.textContent = this.#sum();
      this.#summary.lastChild.hidden = this.#done().length === 0;
    }, COUNT_MS);
  }

  #done() {
    return [...this.#all].filter((card) => card.state === "COMPLETED");
  }

  #sum() {
    const done = this.#done().length;
    const partly = this.#done().filter((card) => card.gaps.length > 0).length;
    const over = [...this.#all].filter((card) => this.#isOver(card)).length;
    const all = this.#all.size + this.#adding;
    const not = partly > 0 ? ` (${partly} not in full)` : "";
    const parts = [count(all, "file", "files"), `${done} done${not}`];
    if (over > done) parts.push(`${over - done} failed`);
    return parts.join(" · ");
  }

  #isOver(card) {
    return FINAL.has(card.state) || card.state === "refused" || card.state === "gone";
  }

  async #tidy() {
    const done = this.#done();
    for await (const _some of slices(done, (card) => this.#drop(card)));
    this.#focusOn(null);
    this.#announcer.say(`${count(done.length, "file", "files")} removed from the list.`);
  }

  #resume(card) {
    card.upload.resume();
    this.#enqueue(card);
  }

  async #cancel(card) {
    const { known } = card;
    const isWhole = card.upload ? card.upload.state === "sent" : !card.wantsFile;
    if (isWhole && !known.cancelled) {
      await this.#server.send("POST", `jobs/${known.id}/cancel`);
      return;
    }
    // for a reload before it is over
    known.cancelled = true;
    this.#memory.change(known);
    const told = (upload, error) => this.#moved(card, upload, error);
    card.upload ??= new Upload(null, known, this.#server, told);
    // first: it shall neither come back nor be told of as gone
    this.#watcher.forget(known.id);
    await card.upload.cancel();
    this.#remove(card, "cancelled");
  }

  async #retry(card) {
    if (card.upload?.state === "refused") {
      this.#admit(this.#memory.keep(card.known));
      this.#resume(card);
      return;
    }
    await this.#server.send("POST", `jobs/${card.known.id}/retry`);
    card.tryAgain();
    this.#announcer.say(`${card.label}: ${card.stateText}.`);
    this.#watcher.watch(card.known.id);
  }

  // Whoever sees the card has the id of its job, and that opens the job to them.
  async #erase(card) {
    try {
      await this.#server.send("DELETE", `jobs/${card.known.id}`);
    } catch (error) {
      if (error.code !== "job_not_found") throw error;
    }
    this.#remove(card, "deleted from the server");
  }

  #remove(card, told = "removed from the list") {
    const { element } = card;
    const near = element.nextElementSibling ?? element.previousElementSibling;
    // what ends by itself takes the focus from nobody
    const had = card.hasFocus();
    this.#drop(card);
    if (had) this.#focusOn(near);
    this.#announcer.say(`${card.label} ${told}.`);
  }

  #drop(card) {
    card.element.remove();
    this.#sight.forget(card);
    this.#all.delete(card);
    this.#memory.drop(card.known);
    this.#release(card.known.id);
    this.#count();
  }

  #focusOn(near) {
    const target = near?.querySelector("button, input") ?? this.shadowRoot.querySelector(".files");
    target.focus();
  }
}

if (!customElements.get("asyncflow-uploader")) {
  customElements.define("asyncflow-uploader", Uploader);
}
