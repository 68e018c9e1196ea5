// The jobs of the admin page: found by state, name or id; each opens to its history.

import { gaps } from "./gaps.js";
import { FINAL } from "./states.js";
import { eventText, jobState, reason, size, stepName } from "./words.js";

const PAGE = 20;
// the newest jobs that are asked for again and again
const FRESH = 100;
const TYPING_MS = 250;
const AGAIN = new Set(["FAILED", "REJECTED", "CANCELLED"]);
const VERDICTS = {
  skipped: "skipped",
  bad_file: "the file's fault",
  bad_output: "gave back what it may not",
  try_later: "to be tried later",
  error: "failed",
  lost: "worker lost",
  interrupted: "interrupted",
  released: "given back",
};

const make = (tag, name, text = "") => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
};

const clock = (text) => (text ? new Date(text).toLocaleString() : "");

const moment = (text) => {
  const time = make("time", "", clock(text));
  if (text) time.dateTime = text;
  return time;
};

export class JobList {
  constructor(server, at) {
    this.server = server;
    this.list = at("jobs");
    this.none = at("none");
    this.more = at("more");
    this.live = at("live");
    this.state = at("state");
    this.search = at("search");
    this.wanted = PAGE;
    // what stands further back than what is asked for every time
    this.tail = [];
    this.next = null;
    this.jobs = [];
    this.rows = new Map();
    this.typing = 0;
    at("filter").addEventListener("submit", (event) => event.preventDefault());
    this.state.addEventListener("change", () => this.anew());
    this.search.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.anew(), TYPING_MS);
    });
    this.more.addEventListener("click", () => {
      this.tell(this.wanted < FRESH ? this.further() : this.older());
    });
  }

  async further() {
    this.wanted = Math.min(this.wanted + PAGE, FRESH);
    await this.refresh();
  }

  async older() {
    const wanted = () => this.asked({ limit: PAGE, after: this.next });
    const question = wanted();
    const page = await this.server.get(`jobs?${question}`);
    // something else is wanted meanwhile, or the same was asked twice
    if (wanted() !== question) return;
    this.tail = [...this.tail, ...page.jobs];
    this.jobs = [...this.jobs, ...page.jobs];
    this.next = page.next;
    await this.refresh();
  }

  // What stood behind `last`: nothing when so much is new that there would be a gap.
  behind(last) {
    const at = this.jobs.findIndex((job) => job.jobId === last?.jobId);
    return at < 0 ? [] : this.jobs.slice(at + 1);
  }

  // What somebody did to a job: further back nothing else tells it. Null: it is gone.
  put(id, job) {
    this.jobs = this.jobs.map((one) => (one.jobId === id ? job : one)).filter(Boolean);
  }

  asked(what) {
    const asked = new URLSearchParams(what);
    if (this.state.value) asked.set("state", this.state.value);
    if (this.search.value.trim()) asked.set("search", this.search.value.trim());
    return asked.toString();
  }

  anew() {
    this.wanted = PAGE;
    this.tail = [];
    this.tell(this.refresh());
  }

  tell(work) {
    work.catch((error) => {
      this.none.textContent = error.message;
      this.none.hidden = false;
    });
  }

  say(text) {
    this.live.textContent = text;
  }

  async refresh() {
    const question = this.asked({ limit: this.wanted });
    this.question = question;
    const page = await this.server.get(`jobs?${question}`);
    // an answer to what nobody asks any more
    if (this.question !== question) return;
    if (this.tail.length > 0) this.tail = this.behind(page.jobs.at(-1));
    this.jobs = [...page.jobs, ...this.tail];
    this.show(this.jobs);
    if (this.tail.length === 0) this.next = page.next;
    this.more.hidden = this.next === null;
    this.none.textContent = "No such job.";
    this.none.hidden = page.jobs.length > 0;
  }

  // Rows are kept and moved, so that focus and what is open stay where they are.
  show(jobs) {
    const before = this.rows;
    this.rows = new Map();
    let last = null;
    for (const job of jobs) {
      const row = before.get(job.jobId) ?? new Row(job.jobId, this);
      before.delete(job.jobId);
      this.rows.set(job.jobId, row);
      row.show(job);
      const following = last ? last.nextSibling : this.list.firstChild;
      if (following !== row.element) this.list.insertBefore(row.element, following);
      last = row.element;
    }
    for (const row of before.values()) row.element.remove();
  }
}

class Row {
  constructor(id, list) {
    this.id = id;
    this.list = list;
    this.version = null;
    this.element = make("li");
    const line = make("div", "row");
    this.open = make("button", "open");
    this.open.type = "button";
    this.open.dir = "auto";
    this.open.setAttribute("aria-expanded", "false");
    this.open.addEventListener("click", () => this.tell(this.toggle()));
    this.facts = make("span", "state");
    this.retry = this.action("Retry", "retry", "A new run has begun.");
    this.cancel = this.action("Cancel", "cancel", "The job is cancelled.");
    line.append(this.open, this.facts, this.retry, this.cancel);
    this.problem = make("p", "problem");
    this.problem.setAttribute("role", "alert");
    this.past = make("div", "past");
    this.past.hidden = true;
    this.erasing = make("p", "erasing");
    this.element.append(line, this.problem, this.past);
  }

  action(text, verb, told) {
    const button = make("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => this.tell(this.act(verb, told)));
    return button;
  }

  tell(work) {
    this.problem.textContent = "";
    work.catch((error) => {
      this.problem.textContent = error.message;
    });
  }

  async act(verb, told) {
    const path = verb === "retry" ? `admin/retry/${this.id}` : `admin/jobs/${this.id}/cancel`;
    await this.list.server.send("POST", path);
    this.list.say(told);
    this.list.put(this.id, await this.list.server.get(`jobs/${this.id}`));
    await this.list.refresh();
    // the button that was pressed may be gone
    if (this.element.isConnected) this.open.focus();
  }

  show(job) {
    const changed = this.version !== job.version;
    this.version = job.version;
    this.element.dataset.state = job.status;
    this.open.textContent = job.fileName;
    this.open.title = job.fileName;
    if (!this.erasing.hasChildNodes()) this.ask(false);
    const bytes = job.fileSize === null ? "" : ` · ${size(job.fileSize)}`;
    this.facts.textContent = `${jobState(job.status)}${bytes} · ${clock(job.createdAt)}`;
    // an upload that never became whole has nothing to run again
    const isPart = job.kind === "file" && job.uploadedBytes === null;
    this.retry.hidden = !AGAIN.has(job.status) || isPart;
    this.cancel.hidden = FINAL.has(job.status);
    this.retry.setAttribute("aria-label", `Retry: ${job.fileName}`);
    this.cancel.setAttribute("aria-label", `Cancel: ${job.fileName}`);
    if (changed && !this.past.hidden) this.tell(this.tellPast());
  }

  async toggle() {
    this.past.hidden = !this.past.hidden;
    this.open.setAttribute("aria-expanded", String(!this.past.hidden));
    if (!this.past.hidden) await this.tellPast();
  }

  async tellPast() {
    const { server } = this.list;
    const [job, past] = await Promise.all([
      server.get(`jobs/${this.id}`),
      server.get(`admin/jobs/${this.id}/attempts`),
    ]);
    // of what has one time the attempt comes first: the event tells its outcome
    const entries = [
      ...(job.kind === "file" ? [{ at: job.createdAt, text: "upload begun" }] : []),
      ...past.attempts.map((one) => ({
        at: one.finishedAt,
        text: attempt(one),
        run: one.run,
        bad: true,
        why: one,
      })),
      ...past.events.map((one) => ({ at: one.at, text: eventText(one.type), run: one.run })),
    ].sort((one, other) => (one.at < other.at ? -1 : Number(one.at > other.at)));
    const steps = make("ol");
    for (const entry of entries) {
      const item = make("li");
      // a first run that is the only one needs no number
      const run = job.run > 1 && entry.run ? ` (run ${entry.run})` : "";
      const text = `${entry.text}${run}`;
      item.append(moment(entry.at), " ", make("span", entry.bad ? "problem" : "", text));
      if (entry.why?.cause) item.append(cause(entry.why));
      steps.append(item);
    }
    const why = job.error ? because(job.error) : "";
    const parts = [make("p", "quiet", `Job ${this.id} · ${job.mediaType ?? "type unknown"}`)];
    if (why) parts.push(make("p", "problem", why));
    if (job.status === "COMPLETED") parts.push(...gaps(job).map((gap) => make("p", "gap", gap)));
    this.past.replaceChildren(...parts, steps, this.erasing);
  }

  // Nothing is deleted at the first press.
  ask(isAsking) {
    const button = (text, act) => {
      const made = make("button", "", text);
      made.type = "button";
      made.setAttribute("aria-label", `${text}: ${this.open.textContent}`);
      made.addEventListener("click", act);
      return made;
    };
    const had = this.erasing.contains(document.activeElement);
    this.erasing.replaceChildren(
      ...(isAsking
        ? [
            make("span", "", "Delete the job with all its files?"),
            button("Keep", () => this.ask(false)),
            button("Delete for good", () => this.tell(this.erase())),
          ]
        : [button("Delete", () => this.ask(true))]),
    );
    if (had) this.erasing.querySelector("button").focus();
  }

  async erase() {
    await this.list.server.send("DELETE", `admin/jobs/${this.id}`);
    this.list.say("The job is deleted.");
    this.list.put(this.id, null);
    await this.list.refresh();
    this.list.search.focus();
  }
}

// `missing_tool` is for the operator to end; people are told what does not work.
const because = ({ code, detail }) => {
  const advice = code === "missing_tool" ? " `asyncflow doctor` says what to install." : "";
  return `${reason(detail)} (${code})${advice}`;
};

const cause = (one) => {
  const found = make("details");
  found.append(make("summary", "", one.cause));
  if (one.traceback) {
    const trace = make("pre", "", one.traceback);
    // whoever has no mouse scrolls by keys
    trace.tabIndex = 0;
    found.append(trace);
  }
  return found;
};

const attempt = (one) => {
  const verdict = VERDICTS[one.verdict] ?? one.verdict;
  return `${stepName(one.step)}: ${verdict}: ${because(one)}`;
};
