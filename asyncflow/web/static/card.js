// One file on the page: its upload, its steps, its results.

import { gaps } from "./gaps.js";
import { FINAL } from "./states.js";
import { textBox } from "./text.js";
import {
  duration,
  fileName,
  fileTitle,
  jobState,
  reason,
  size,
  stepName,
  stepState,
} from "./words.js";

const SHOWN = /^image\/(jpeg|png|webp|gif|avif)$/;
const MAX_PREVIEW = 30_000_000;
const OVER = new Set(["done", "skipped", "dead", "cancelled"]);
// the same file would end the same way again
const HOPELESS = new Set([
  "empty_file",
  "encrypted",
  "file_changed",
  "too_complex",
  "too_many_pages",
  "too_many_pixels",
  "type_mismatch",
  "type_not_allowed",
  "unsupported_type",
  "upload_too_large",
]);
const WORDS = {
  now: "Try now",
  pause: "Pause",
  resume: "Resume",
  cancel: "Cancel",
  retry: "Retry",
  remove: "Remove from list",
  erase: "Delete",
  keep: "Keep",
  really: "Delete for good",
};

const make = (tag, name, text = "") => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
};

export class Card {
  // `known` is what the browser remembers of the file.
  constructor(known, actions) {
    this.name = fileTitle(known.name);
    this.folder = known.path.split("/").slice(0, -1).map(fileTitle).join("/");
    // two folders may hold files of one name
    this.label = this.folder ? `${this.folder}/${this.name}` : this.name;
    this.bytes = known.size;
    this.actions = { ...actions, erase: () => this.ask(true), keep: () => this.ask(false) };
    this.isAsking = false;
    this.state = "";
    this.stateText = "";
    this.job = null;
    // what its steps left out although they are done
    this.gaps = [];
    this.upload = null;
    // what goes on by itself once the server's token is the right one
    this.barred = null;
    this.wantsFile = false;
    // what was told last of what it waits for
    this.heldUp = "";
    this.rate = null;
    // whether somebody looks at it, or nearly
    this.isSeen = false;
    // the run and version of the job whose results are linked
    this.linked = null;
    // what of them is shown: a new object each time
    this.shown = null;
    this.chips = new Map();
    this.build();
  }

  build() {
    this.element = make("li", "card");
    const head = make("div", "head");
    this.picture = make("img", "picture");
    this.picture.alt = "";
    this.picture.decoding = "async";
    this.picture.hidden = true;
    const title = make("div", "title");
    const name = make("h2", "name");
    name.title = this.name;
    name.append(make("bdi", "", this.name));
    this.status = make("p", "status", size(this.bytes));
    title.append(name, this.status);
    if (this.folder) {
      const folder = make("p", "folder", "in ");
      folder.title = this.folder;
      folder.append(make("bdi", "", this.folder));
      name.after(folder);
    }
    head.append(this.picture, title);
    this.bar = document.createElement("progress");
    this.bar.max = 100;
    this.bar.setAttribute("aria-label", `Progress of ${this.label}`);
    this.problem = make("p", "problem");
    this.problem.hidden = true;
    this.steps = make("ul", "steps");
    this.steps.setAttribute("aria-label", `Steps of ${this.label}`);
    this.steps.hidden = true;
    // what a chip cannot hold: why a step was skipped or is tried again, what it left out
    this.reasons = make("ul", "reasons");
    this.reasons.setAttribute("aria-label", `Reasons of ${this.label}`);
    this.reasons.hidden = true;
    this.results = make("div", "results");
    this.buttons = make("p", "buttons");
    const told = [head, this.bar, this.problem, this.steps, this.reasons];
    this.element.append(...told, this.results, this.buttons);
  }

  offer(...names) {
    this.offered = names;
    const isAsking = this.isAsking && names.includes("erase");
    const shown = isAsking ? ["keep", "really"] : names;
    const wanted = shown.join();
    if (this.buttons.dataset.offered === wanted) return;
    const focused = this.buttons.contains(this.element.getRootNode().activeElement);
    this.buttons.dataset.offered = wanted;
    const question = make("span", "sure", "Delete it from the server, with its results?");
    this.buttons.replaceChildren(
      ...(isAsking ? [question] : []),
      ...shown.map((name) => this.button(name)),
    );
    if (focused) this.buttons.querySelector("button")?.focus();
  }

  // Nothing is deleted at the first press.
  ask(isAsking) {
    this.isAsking = isAsking;
    this.offer(...this.offered);
  }

  button(name) {
    const button = make("button", "", WORDS[name]);
    button.type = "button";
    button.dataset.action = name;
    button.setAttribute("aria-label", `${WORDS[name]}: ${this.label}`);
    let busy = false;
    button.addEventListener("click", async () => {
      if (busy) return;
      busy = true;
      await this.act(name);
      busy = false;
    });
    return button;
  }

  async act(name) {
    this.barred = null;
    try {
      await this.actions[name]();
    } catch (error) {
      this.deny(error.message, error.code);
      if (error.status === 401) this.barred = name;
    }
  }

  // The token is another one: what failed for want of it goes on. Deleting asks anew.
  unbar() {
    const wanted = this.barred;
    this.barred = null;
    if (wanted && wanted !== "really") this.act(wanted);
    else if (this.problem.dataset.code === "unauthorized") this.showJob();
  }

  // Somebody has asked for something and does not get it.
  deny(text, code = "") {
    this.complain(text, code);
    this.actions.say(text);
  }

  complain(text, code = "") {
    this.problem.textContent = text;
    this.problem.dataset.code = code;
    this.problem.hidden = !text;
  }

  become(state, text) {
    this.state = state;
    this.stateText = text;
    this.element.dataset.state = state;
  }

  // ----- the upload

  showUpload(upload, error = null) {
    this.wantsFile = false;
    this.results.querySelector(".again")?.remove();
    this.preview();
    if (this.bytes > 0) this.bar.value = (100 * upload.offset) / this.bytes;
    this.complain(error?.message ?? "", error?.code);
    const whole = size(this.bytes);
    const sent = `${size(upload.offset)} of ${whole}`;
    const show = {
      waiting: () => this.uploads("waiting", `Waiting · ${whole}`, "cancel"),
      uploading: () => {
        const text = error ? "Trying again" : "Uploading";
        const speed = error ? "" : this.speed(upload.offset);
        const now = upload.hurry ? ["now"] : [];
        this.uploads("uploading", `${text} · ${sent}${speed}`, ...now, "pause", "cancel");
      },
      paused: () => this.uploads("paused", `Paused · ${sent}`, "resume", "cancel"),
      sent: () => {
        if (this.job && this.job.status !== "UPLOADING") return;
        this.uploads("uploaded", `Uploaded · ${whole}`);
        this.bar.value = 100;
      },
      refused: () => {
        this.bar.hidden = true;
        const text = error?.code === "cancelled" ? "Cancelled" : "Refused";
        this.uploads("refused", `${text} · ${whole}`, ...afterwards(error));
        this.stateText = text.toLowerCase();
      },
      // until the server has let go of what it has
      cancelled: () => {
        this.uploads("cancelled", `Cancelling · ${sent}`, upload.hurry ? "now" : "cancel");
      },
    };
    if (upload.state !== "refused") this.bar.hidden = false;
    show[upload.state]();
  }

  uploads(state, status, ...offers) {
    this.become(state, state);
    this.status.textContent = status;
    this.offer(...offers);
  }

  // Bytes a second over the last few seconds, and what that means for the rest.
  speed(offset) {
    const now = performance.now();
    if (this.rate === null || offset < this.rate.offset) {
      this.rate = { offset, at: now, value: null };
      return "";
    }
    const passed = (now - this.rate.at) / 1000;
    if (passed >= 0.5) {
      const fresh = (offset - this.rate.offset) / passed;
      const value = this.rate.value === null ? fresh : 0.7 * this.rate.value + 0.3 * fresh;
      this.rate = { offset, at: now, value };
    }
    if (!this.rate.value) return "";
    const left = duration((this.bytes - offset) / this.rate.value);
    return ` · ${size(this.rate.value)}/s · ${left} left`;
  }

  preview() {
    if (!this.isSeen || this.picture.src || !this.file) return;
    if (!SHOWN.test(this.file.type) || this.file.size > MAX_PREVIEW) return;
    this.show(URL.createObjectURL(this.file));
  }

  show(address) {
    const { picture } = this;
    this.hide();
    picture.src = address;
    picture.hidden = false;
    picture.onerror = () => {
      picture.hidden = true;
    };
  }

  hide() {
    const { src } = this.picture;
    this.picture.hidden = true;
    this.picture.removeAttribute("src");
    if (src.startsWith("blob:")) URL.revokeObjectURL(src);
  }

  // ----- what only a card that somebody looks at holds

  showContents() {
    this.preview();
    if (this.linked) this.showResults();
  }

  letGo() {
    this.hide();
    this.results.querySelector(".text")?.remove();
    this.shown = null;
  }

  hasFocus() {
    return this.element.contains(this.element.getRootNode().activeElement);
  }

  // The job is over: what was needed to send the file and to follow it may go.
  rest() {
    const { facts, files, processedFiles, ...job } = this.job;
    this.job = job;
    if (this.upload?.state !== "sent") return;
    this.file = null;
    this.upload = null;
  }

  // ----- the job

  hear(message) {
    if (message.job) {
      this.job = message.job;
      this.gaps = gaps(message.job);
    } else if (message.type === "step" && this.job) {
      // how it ended is told by the last message, with the reason
      if (!FINAL.has(message.status)) this.job.status = message.status;
      this.put(message.step);
    } else if (message.type === "progress" && this.job) {
      this.job.uploadedBytes = message.uploadedBytes ?? this.job.uploadedBytes;
      if ("estimatedTimeRemaining" in message) {
        this.job.estimatedTimeRemaining = message.estimatedTimeRemaining;
      }
      for (const step of this.job.steps) {
        if (step.name in message.steps) step.progress = message.steps[step.name];
      }
    }
    if (this.job) this.showJob();
  }

  // A new run has begun. Its end is news, also when it is the end of the last one.
  tryAgain() {
    this.become("PENDING", "trying again");
    this.status.textContent = `Trying again · ${size(this.bytes)}`;
    this.complain("");
  }

  put(step) {
    const at = this.job.steps.findIndex((one) => one.name === step.name);
    if (at < 0) this.job.steps.push(step);
    else this.job.steps[at] = step;
  }

  showJob() {
    const { job } = this;
    if (job.status === "UPLOADING") {
      if (!this.upload) this.askForFile();
      return;
    }
    this.element.dataset.run = job.run;
    const state = jobState(job.status);
    if (this.wantsFile) this.results.replaceChildren();
    this.wantsFile = false;
    this.become(job.status, state.toLowerCase());
    const over = FINAL.has(job.status);
    this.bar.hidden = over;
    this.bar.value = share(job.steps);
    const left = over ? null : job.estimatedTimeRemaining;
    const soon = left ? ` · about ${duration(left)} left` : "";
    const not = job.status === "COMPLETED" && this.gaps.length > 0 ? ", not in full" : "";
    this.status.textContent = `${state}${not} · ${size(job.fileSize ?? this.bytes)}${soon}`;
    const isAgain = over && job.run > 1 && job.status !== "COMPLETED";
    if (isAgain) this.status.textContent += ` · try ${job.run}`;
    this.complain(job.error ? reason(job.error.detail) : "", job.error?.code);
    this.showSteps();
    if (over) this.linkResults();
    else this.linked = null;
    if (!over) this.offer("cancel");
    else if (job.status === "COMPLETED" || this.hasNothing()) this.offer("remove", "erase");
    else this.offer(...afterwards(job.error), "erase");
  }

  // Neither the server nor this page has a file that could be tried again.
  hasNothing() {
    return this.job.uploadedBytes === null && !this.upload;
  }

  showSteps() {
    this.steps.hidden = this.job.steps.length === 0;
    for (const step of this.job.steps) {
      if (!this.chips.has(step.name)) {
        const chip = make("li", "step");
        chip.append(make("span", "", stepName(step.name)), make("span", "step-state"));
        this.chips.set(step.name, chip);
        this.steps.append(chip);
      }
      const chip = this.chips.get(step.name);
      const percent = step.status === "running" ? ` ${Math.round(step.progress)} %` : "";
      chip.className = `step ${step.status}`;
      chip.lastChild.textContent = `${stepState(step.status)}${percent}`;
    }
    this.showReasons();
  }

  // What ended the whole job stands above already.
  showReasons() {
    const { error, steps } = this.job;
    const reasons = steps
      .filter((step) => step.error && step.error.detail !== error?.detail)
      .map((step) => {
        const why = reason(step.error.detail);
        return `${stepName(step.name)} (${stepState(step.status)}): ${why}`;
      });
    // progress comes often, and a reader keeps its place
    const told = [...this.gaps, ...reasons].join();
    if (this.reasons.dataset.told === told) return;
    this.reasons.dataset.told = told;
    this.reasons.hidden = told === "";
    this.reasons.replaceChildren(
      ...this.gaps.map((gap) => make("li", "gap", gap)),
      ...reasons.map((reason) => make("li", "", reason)),
    );
  }

  linkResults() {
    const { job } = this;
    const linked = `${job.run}/${job.version}`;
    if (this.linked === linked) return;
    this.linked = linked;
    this.results.replaceChildren(...(job.accepted ? [this.links(job)] : []));
    if (this.isSeen) this.showResults();
  }

  // They are there without it: a picture or a text more is no failure.
  async showResults() {
    const { linked } = this;
    if (this.shown?.linked === linked) return;
    const shown = { linked };
    this.shown = shown;
    const { thumbnail, preview, text } = this.job.downloadUrls;
    const isStill = () => this.shown === shown && this.linked === linked;
    const picture = thumbnail ?? preview;
    this.picture.classList.toggle("page", !thumbnail);
    if (picture) {
      this.server.picture(picture).then((address) => {
        if (isStill()) this.show(address);
        else if (address.startsWith("blob:")) URL.revokeObjectURL(address);
      }, () => {});
    }
    const box = text ? await textBox(this.server, text, this.label).catch(() => null) : null;
    if (box && isStill()) this.results.append(box);
  }

  links(job) {
    const list = make("ul", "links");
    list.setAttribute("aria-label", `Downloads of ${this.label}`);
    const urls = Object.entries(job.downloadUrls);
    for (const [name, url] of urls) list.append(this.link(fileName(name), this.server.link(url)));
    if (urls.length > 1) {
      list.append(this.link("All (zip)", this.server.url(`jobs/${job.jobId}/files.zip`)));
    }
    return list;
  }

  link(text, address) {
    const link = make("a", "", text);
    link.href = address;
    link.download = "";
    link.addEventListener("click", (event) => {
      if (!this.server.token) return;
      event.preventDefault();
      this.server.save(address).catch((error) => this.deny(error.message, error.code));
    });
    const item = make("li");
    item.append(link);
    return item;
  }

  askForFile() {
    this.wantsFile = true;
    this.become("UPLOADING", "waiting for its file");
    const done = this.job?.uploadedBytes ?? 0;
    this.bar.value = this.bytes > 0 ? (100 * done) / this.bytes : 0;
    const whole = size(this.bytes);
    this.status.textContent = this.job
      ? `${size(done)} of ${whole} uploaded. Choose the same file to go on.`
      : `Nothing of ${whole} was sent yet. Choose the file again.`;
    if (!this.results.querySelector(".again")) {
      const label = make("label", "button again", "Choose the file");
      const input = document.createElement("input");
      input.type = "file";
      input.setAttribute("aria-label", `Choose the file: ${this.label}`);
      input.addEventListener("change", () => {
        if (input.files.length > 0) this.actions.give(input.files[0]);
        input.value = "";
      });
      label.prepend(input);
      this.results.replaceChildren(label);
    }
    this.offer("cancel");
  }

  gone() {
    this.become("gone", "no longer on the server");
    this.gaps = [];
    this.bar.hidden = true;
    this.steps.hidden = true;
    this.reasons.hidden = true;
    this.results.replaceChildren();
    this.status.textContent = "No longer on the server";
    this.offer("remove");
  }
}

const afterwards = (error) => (HOPELESS.has(error?.code) ? ["remove"] : ["retry", "remove"]);

const share = (steps) => {
  if (steps.length === 0) return 0;
  const total = steps.reduce((sum, s) => sum + (OVER.has(s.status) ? 100 : s.progress), 0);
  return total / steps.length;
};
