// One file on the page: its upload, its steps, its results.

import { duration, fileName, jobState, size, stepName, stepState } from "./words.js";

const FINAL = new Set(["COMPLETED", "FAILED", "REJECTED", "CANCELLED"]);
const SHOWN = /^image\/(jpeg|png|webp|gif|avif)$/;
const TEXT_SHOWN = 200_000;

const make = (tag, name, text = "") => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
};

export class Card {
  constructor(name, bytes, actions) {
    this.name = name;
    this.bytes = bytes;
    this.actions = actions;
    this.state = "";
    this.stateText = "";
    this.job = null;
    this.upload = null;
    this.wantsFile = false;
    this.rate = null;
    this.build();
  }

  build() {
    this.element = make("li", "card");
    const head = make("div", "head");
    this.picture = make("img", "picture");
    this.picture.alt = "";
    this.picture.hidden = true;
    const title = make("div", "title");
    title.append(make("h3", "name", this.name));
    this.status = make("p", "status", size(this.bytes));
    title.append(this.status);
    head.append(this.picture, title);
    this.bar = document.createElement("progress");
    this.bar.max = 100;
    this.bar.setAttribute("aria-label", `Progress of ${this.name}`);
    this.problem = make("p", "problem");
    this.problem.hidden = true;
    this.steps = make("ul", "steps");
    this.steps.setAttribute("aria-label", `Steps of ${this.name}`);
    this.steps.hidden = true;
    this.results = make("div", "results");
    this.buttons = make("p", "buttons");
    this.element.append(
      head,
      this.bar,
      this.problem,
      this.steps,
      this.results,
      this.buttons,
    );
  }

  offer(...names) {
    const wanted = names.join();
    if (this.buttons.dataset.offered === wanted) return;
    const focused = this.buttons.contains(this.element.getRootNode().activeElement);
    this.buttons.dataset.offered = wanted;
    this.buttons.replaceChildren(...names.map((name) => this.button(name)));
    if (focused) this.buttons.querySelector("button")?.focus();
  }

  button(name) {
    const words = {
      pause: "Pause",
      resume: "Resume",
      cancel: "Cancel",
      retry: "Retry",
      remove: "Remove from list",
    };
    const button = make("button", "", words[name]);
    button.type = "button";
    button.setAttribute("aria-label", `${words[name]}: ${this.name}`);
    button.addEventListener("click", () => this.actions[name]());
    return button;
  }

  complain(text) {
    this.problem.textContent = text;
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
    this.complain(error ? error.message : "");
    const sent = `${size(upload.offset)} of ${size(this.bytes)}`;
    const show = {
      waiting: () => {
        this.become("waiting", "waiting");
        this.status.textContent = `Waiting · ${size(this.bytes)}`;
        this.offer("cancel");
      },
      uploading: () => {
        this.become("uploading", "uploading");
        this.status.textContent = `Uploading · ${sent}${this.speed(upload.offset)}`;
        this.offer("pause", "cancel");
      },
      paused: () => {
        this.become("paused", "paused");
        this.status.textContent = `Paused · ${sent}`;
        this.offer("resume", "cancel");
      },
      sent: () => {
        if (FINAL.has(this.state)) return;
        this.become("sent", "uploaded");
        this.bar.value = 100;
        this.status.textContent = `Uploaded · ${size(this.bytes)}`;
        this.offer();
      },
      refused: () => {
        this.become("refused", "refused");
        this.bar.hidden = true;
        this.status.textContent = `Refused · ${size(this.bytes)}`;
        this.offer("retry", "remove");
      },
      cancelled: () => this.become("cancelled", "cancelled"),
    };
    show[upload.state]();
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
    if (this.picture.src || !this.file || !SHOWN.test(this.file.type)) return;
    if (this.file.size > 30_000_000) return;
    this.picture.src = URL.createObjectURL(this.file);
    this.picture.hidden = false;
    this.picture.onload = () => {
      if (this.picture.src.startsWith("blob:")) URL.revokeObjectURL(this.picture.src);
    };
    this.picture.onerror = () => {
      this.picture.hidden = true;
    };
  }

  // ----- the job

  hear(message) {
    if (message.job) {
      this.job = message.job;
    } else if (message.type === "step" && this.job) {
      this.job.status = message.status;
      this.put(message.step);
    } else if (message.type === "progress" && this.job) {
      this.job.uploadedBytes = message.uploadedBytes ?? this.job.uploadedBytes;
      for (const step of this.job.steps) {
        if (step.name in message.steps) step.progress = message.steps[step.name];
      }
    }
    if (this.job) this.showJob();
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
    const state = jobState(job.status);
    this.become(job.status, state.toLowerCase());
    const over = FINAL.has(job.status);
    this.bar.hidden = over;
    this.bar.value = share(job.steps);
    this.status.textContent = `${state} · ${size(job.fileSize ?? this.bytes)}`;
    this.complain(job.error ? `${job.error.detail} (${job.error.code})` : "");
    this.showSteps();
    if (over) this.showResults();
    if (!over) this.offer("cancel");
    else if (job.status === "COMPLETED") this.offer("remove");
    else this.offer("retry", "remove");
  }

  showSteps() {
    this.steps.hidden = this.job.steps.length === 0;
    this.steps.replaceChildren(
      ...this.job.steps.map((step) => {
        const percent = step.status === "running" ? ` ${Math.round(step.progress)} %` : "";
        const chip = make("li", `step ${step.status}`);
        chip.append(
          make("span", "", stepName(step.name)),
          make("span", "step-state", `${stepState(step.status)}${percent}`),
        );
        if (step.error) chip.title = step.error.detail;
        return chip;
      }),
    );
  }

  showResults() {
    const { job } = this;
    const urls = Object.entries(job.downloadUrls);
    const thumbnail = job.downloadUrls.thumbnail ?? job.downloadUrls.preview;
    if (thumbnail) {
      this.picture.src = `${this.server.link(thumbnail)}?inline=1`;
      this.picture.hidden = false;
    }
    const links = make("ul", "links");
    links.setAttribute("aria-label", `Downloads of ${this.name}`);
    for (const [name, url] of urls) {
      const link = make("a", "", fileName(name));
      link.href = this.server.link(url);
      link.download = "";
      const item = make("li");
      item.append(link);
      links.append(item);
    }
    if (urls.length > 1) {
      const link = make("a", "all", "Download all (zip)");
      link.href = this.server.url(`jobs/${job.jobId}/files.zip`);
      link.download = "";
      const item = make("li");
      item.append(link);
      links.append(item);
    }
    this.results.replaceChildren(links);
    if (job.downloadUrls.text) this.showText(job.downloadUrls.text);
  }

  async showText(url) {
    let text = "";
    try {
      text = (await this.server.text(url)).trim();
    } catch {
      return;
    }
    if (!text) return;
    const box = make("details", "text");
    box.open = true;
    const area = make("pre", "", text.slice(0, TEXT_SHOWN));
    area.tabIndex = 0;
    const find = make("input", "find");
    find.type = "search";
    find.placeholder = "Find in the text";
    find.setAttribute("aria-label", `Find in the text of ${this.name}`);
    find.addEventListener("input", () => mark(area, text.slice(0, TEXT_SHOWN), find.value));
    const copy = make("button", "", "Copy text");
    copy.type = "button";
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    });
    const tools = make("p", "tools");
    tools.append(find, copy);
    box.append(make("summary", "", "Text"), tools, area);
    this.results.append(box);
  }

  askForFile() {
    this.wantsFile = true;
    this.become("UPLOADING", "waiting for its file");
    const done = this.job.uploadedBytes ?? 0;
    this.bar.value = this.bytes > 0 ? (100 * done) / this.bytes : 0;
    this.status.textContent =
      `${size(done)} of ${size(this.bytes)} uploaded. Choose the same file to go on.`;
    if (!this.results.querySelector(".again")) {
      const label = make("label", "button again", "Choose the file");
      const input = document.createElement("input");
      input.type = "file";
      input.setAttribute("aria-label", `Choose ${this.name} again`);
      input.addEventListener("change", () => this.actions.give(input.files[0]));
      label.prepend(input);
      this.results.replaceChildren(label);
    }
    this.offer("remove");
  }

  gone() {
    this.become("gone", "no longer on the server");
    this.bar.hidden = true;
    this.steps.hidden = true;
    this.results.replaceChildren();
    this.status.textContent = "No longer on the server";
    this.offer("remove");
  }
}

const share = (steps) => {
  if (steps.length === 0) return 0;
  const over = new Set(["done", "skipped", "dead", "cancelled"]);
  const total = steps.reduce((sum, s) => sum + (over.has(s.status) ? 100 : s.progress), 0);
  return total / steps.length;
};

// Show `text` with every place of `wanted` marked; text only, never markup.
const mark = (area, text, wanted) => {
  if (!wanted) {
    area.textContent = text;
    return;
  }
  const parts = [];
  const low = text.toLowerCase();
  const key = wanted.toLowerCase();
  let at = 0;
  for (let found = low.indexOf(key); found >= 0; found = low.indexOf(key, at)) {
    parts.push(text.slice(at, found), make("mark", "", text.slice(found, found + key.length)));
    at = found + key.length;
    if (parts.length > 2000) break;
  }
  area.replaceChildren(...parts, text.slice(at));
  area.querySelector("mark")?.scrollIntoView({ block: "nearest" });
};
