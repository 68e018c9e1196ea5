// What goes on now: steps that run, uploads that arrive, tenants, and what was done.

import { count, duration, reason, sentence, size, stepName } from "./words.js";

const ACTIONS = {
  pause: "paused",
  resume: "let go on",
  "pause-tenant": "paused the tenant",
  "resume-tenant": "let the tenant go on:",
  "retry-all": "retried all of",
  "retry-refused": "retried all files refused by",
  "retry-step": "retried step",
  "cancel-step": "cancelled step",
  "retry-job": "retried job",
  "cancel-job": "cancelled job",
  "delete-job": "deleted job",
  replay: "replayed",
  forget: "forgot which other servers have",
  drain: "drained the",
  "resume-all": "let everything begin again on the",
};

// as the server calls what belongs to nobody
const tenantName = (name) => (name === "-" ? "Without a tenant" : name);

const make = (tag, text = "", name = "") => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
};

const moment = (text) => {
  const time = make("time", new Date(text).toLocaleString());
  time.dateTime = text;
  return time;
};

const button = (text, label, act) => {
  const made = make("button", text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
};

// A list whose items are kept, so that focus stays where it is.
class Kept {
  constructor(list, none, build, fill) {
    Object.assign(this, { list, none, build, fill });
    this.items = new Map();
  }

  show(entries, key) {
    const before = this.items;
    this.items = new Map();
    for (const entry of entries) {
      const item = before.get(entry[key]) ?? this.build(entry);
      before.delete(entry[key]);
      this.items.set(entry[key], item);
      this.fill(item, entry);
      if (item.parentNode !== this.list) this.list.append(item);
    }
    for (const item of before.values()) item.remove();
    this.none.hidden = entries.length > 0;
  }
}

export class Activity {
  constructor(server, at, say) {
    this.server = server;
    this.say = say;
    this.at = at;
    this.steps = new Kept(at("running"), at("no-running"), (one) => this.step(one), (item, one) => {
      const age = one.startedAt ? duration((Date.now() - Date.parse(one.startedAt)) / 1000) : "";
      const now = one.waiting ? "waits for a worker" : `${age} · ${Math.round(one.progress)} %`;
      item.querySelector(".state").textContent = `${stepName(one.step)} · try ${one.attempt} · ${now}`;
    });
    this.uploads = new Kept(at("arriving"), at("no-arriving"), (one) => {
      const name = make("span", one.fileName, "name");
      name.dir = "auto";
      const item = make("li");
      item.append(name, make("span", "", "state"));
      return item;
    }, (item, one) => {
      const whole = one.length === null ? "?" : size(one.length);
      const why = one.error ? ` · ${reason(one.error.detail)}` : "";
      item.querySelector(".state").textContent = `${size(one.received)} of ${whole}${why}`;
    });
    this.tenants = new Kept(at("tenants"), at("no-tenants"), (one) => this.tenant(one), (item, one) => {
      const waiting = (one.steps.ready ?? 0) + (one.steps.retrying ?? 0);
      const steps = count(waiting, "step waits", "steps wait");
      const facts = `${steps}, ${one.steps.running ?? 0} running, ${size(one.storedBytes)} stored`;
      item.querySelector(".state").textContent = one.paused ? `${facts}, paused` : facts;
      const control = item.querySelector("button");
      control.textContent = one.paused ? "Resume" : "Pause";
      control.setAttribute("aria-label", `${control.textContent} ${tenantName(one.name)}`);
      item.dataset.paused = one.paused;
    });
    at("past-box").addEventListener("toggle", () => this.do(() => this.past()));
    at("drain").addEventListener("click", () => this.do(() => this.drain()));
    at("audit-box").addEventListener("toggle", () => this.do(() => this.audit()));
  }

  do(work) {
    work().catch((error) => this.say(error.message));
  }

  async refresh() {
    const [steps, uploads, tenants] = await Promise.all([
      this.server.get("admin/steps"),
      this.server.get("admin/uploads"),
      this.server.get("admin/tenants"),
    ]);
    this.steps.show(steps.steps, "stepId");
    this.uploads.show(uploads.uploads.filter((one) => !one.isPart), "jobId");
    this.at("tenants-section").hidden = tenants.tenants.length < 2 && !tenants.tenants.some((one) => one.paused);
    this.tenants.show(tenants.tenants, "name");
    this.strays(steps.strays);
    await Promise.all([this.audit(), this.past()]);
  }

  strays(strays) {
    this.at("strays-box").hidden = strays.length === 0;
    this.at("strays").replaceChildren(
      ...strays.map((one) => {
        const item = make("li");
        const since = duration((Date.now() - Date.parse(one.toldToStopAt)) / 1000);
        item.append(make("span", stepName(one.step), "name"), make("span", `for ${since} · job ${one.jobId}`, "state"));
        return item;
      }),
    );
  }

  step(one) {
    const item = make("li");
    const name = make("span", one.fileName, "name");
    name.dir = "auto";
    const stop = button("Cancel", `Cancel ${stepName(one.step)} of ${one.fileName}`, () =>
      this.do(async () => {
        await this.server.send("POST", `admin/steps/${one.stepId}/cancel`);
        this.say("The step is cancelled.");
        await this.refresh();
      }),
    );
    item.append(name, make("span", "", "state"), stop);
    return item;
  }

  tenant(one) {
    const item = make("li");
    const control = button("", "", () =>
      this.do(async () => {
        const verb = item.dataset.paused === "true" ? "resume" : "pause";
        await this.server.send("POST", `admin/tenants/${encodeURIComponent(one.name)}/${verb}`);
        this.say(verb === "pause" ? "The tenant is paused." : "The tenant goes on.");
        await this.refresh();
      }),
    );
    item.append(make("span", tenantName(one.name), "name"), make("span", "", "state"), control);
    return item;
  }

  showDrained(isDrained) {
    this.isDrained = isDrained;
    this.at("drain").textContent = isDrained ? "Let steps begin again" : "Drain: begin no more steps";
  }

  async drain() {
    const done = await this.server.send("POST", this.isDrained ? "admin/resume" : "admin/drain");
    this.showDrained(done.draining);
    this.say(
      done.draining
        ? `No step begins any more; ${count(done.running, "runs", "run")} to the end.`
        : "Steps begin again.",
    );
  }

  async past() {
    if (!this.at("past-box").open) return;
    const { past } = await this.server.get("admin/alerts");
    this.at("past").replaceChildren(
      ...past.map((one) => {
        const item = make("li");
        const until = one.until ? [" to ", moment(one.until)] : [" until the server ended"];
        item.append(moment(one.since), ...until, `: ${sentence(one.says)}`);
        return item;
      }),
    );
    this.at("no-past").hidden = past.length > 0;
  }

  async audit() {
    if (!this.at("audit-box").open) return;
    const { entries } = await this.server.get("admin/audit?limit=50");
    this.at("audit").replaceChildren(
      ...entries.map((one) => {
        const item = make("li");
        item.append(moment(one.at), ` ${one.actor} ${ACTIONS[one.action] ?? one.action} ${one.target}`);
        return item;
      }),
    );
    this.at("no-audit").hidden = entries.length > 0;
  }
}
