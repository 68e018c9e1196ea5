// The consumers of the admin page: how each does, its steps that failed, and what to do.

import { count, duration, reason, stepName } from "./words.js";

const MOST_LETTERS = 20;

const make = (tag, text = "", name = "") => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
};

const seconds = (value) => {
  return value < 10 ? `${value.toFixed(value < 1 ? 2 : 1)} s` : duration(value);
};

export class ConsumerTable {
  constructor(server, at, say) {
    this.server = server;
    this.body = at("consumers");
    this.letters = at("letters");
    this.list = at("letter-list");
    this.title = at("letters-title");
    this.all = at("retry-all");
    this.say = say;
    this.opened = null;
    this.rows = new Map();
    this.all.addEventListener("click", () => this.do(() => this.retryAll()));
    at("letters-close").addEventListener("click", () => this.close());
  }

  // What goes wrong is said where everything is said.
  do(work) {
    work().catch((error) => this.say(error.message));
  }

  show(consumers) {
    const before = this.rows;
    this.rows = new Map();
    for (const one of consumers) {
      const row = before.get(one.name) ?? new Row(one.name, this);
      before.delete(one.name);
      this.rows.set(one.name, row);
      row.show(one);
      if (row.element.parentNode !== this.body) this.body.append(row.element);
    }
    for (const row of before.values()) row.element.remove();
  }

  async act(name, verb, told) {
    await this.server.send("POST", `admin/consumers/${encodeURIComponent(name)}/${verb}`);
    this.say(told);
    await this.refresh();
  }

  async refresh() {
    const { consumers } = await this.server.get("admin/consumers");
    this.show(consumers);
    if (this.opened) await this.showLetters();
  }

  async open(name) {
    this.opened = name;
    this.letters.hidden = false;
    await this.showLetters();
    this.title.focus();
  }

  close() {
    const name = this.opened;
    this.opened = null;
    this.letters.hidden = true;
    this.rows.get(name)?.dead.focus();
  }

  async showLetters() {
    const name = encodeURIComponent(this.opened);
    const page = await this.server.get(`admin/consumers/${name}/dead?limit=${MOST_LETTERS}`);
    const more = page.next === null ? "" : ", the newest of many";
    this.title.textContent = `${stepName(this.opened)}: ${count(page.steps.length, "failed step", "failed steps")}${more}`;
    this.all.hidden = page.steps.length === 0;
    const kept = new Map([...this.list.children].map((item) => [item.dataset.step, item]));
    this.list.replaceChildren(...page.steps.map((one) => kept.get(String(one.stepId)) ?? this.letter(one)));
  }

  letter(one) {
    const item = make("li");
    item.dataset.step = one.stepId;
    const why = one.error ? `${reason(one.error.detail)} (${one.error.code})` : "";
    const retry = make("button", "Retry");
    retry.type = "button";
    retry.setAttribute("aria-label", `Retry: ${one.fileName}`);
    retry.addEventListener("click", () =>
      this.do(async () => {
        await this.server.send("POST", `admin/steps/${one.stepId}/retry`);
        this.say("The step is tried again.");
        await this.refresh();
        this.title.focus();
      }),
    );
    const name = make("span", one.fileName, "name");
    name.dir = "auto";
    item.append(name, make("span", why, "problem"), retry);
    return item;
  }

  async retryAll() {
    const name = encodeURIComponent(this.opened);
    const done = await this.server.send("POST", `admin/consumers/${name}/retry`);
    this.say(`${count(done.steps, "step is", "steps are")} tried again.`);
    await this.refresh();
    this.title.focus();
  }
}

// what the head of the table says, for where each row is a card of its own
const COLUMNS = ["Waiting", "Running", "Trying again", "Done", "Lately", "Failed"];

class Row {
  constructor(name, table) {
    this.name = name;
    this.table = table;
    this.element = make("tr");
    const head = make("th");
    head.scope = "row";
    this.title = make("span", stepName(name));
    this.note = make("span", "", "note");
    head.append(this.title, " ", this.note);
    this.cells = COLUMNS.map((label) => {
      const cell = make("td");
      cell.dataset.label = label;
      return cell;
    });
    this.dead = make("button", "", "open");
    this.dead.type = "button";
    this.dead.addEventListener("click", () => table.do(() => table.open(name)));
    this.switch = make("button");
    this.switch.type = "button";
    this.switch.addEventListener("click", () =>
      table.do(() =>
        this.paused
          ? table.act(name, "resume", `${stepName(name)} goes on.`)
          : table.act(name, "pause", `${stepName(name)} is paused.`),
      ),
    );
    const action = make("td");
    action.append(this.switch);
    this.element.append(head, ...this.cells, action);
  }

  show(one) {
    const steps = (state) => one.steps[state] ?? 0;
    this.paused = one.paused;
    const notes = [];
    if (one.paused) notes.push("paused");
    if (one.missingTool) notes.push(`no ${one.missingTool}`);
    this.note.textContent = notes.join(", ");
    const behind = one.lag > 0 ? [`${count(one.lag, "event", "events")} behind`] : [];
    const oldest = one.oldestS === null ? [] : [`oldest ${duration(one.oldestS)}`];
    const skipped = steps("skipped") > 0 ? [`${steps("skipped")} skipped`] : [];
    const facts = [
      [steps("ready") + steps("waiting"), [...oldest, ...behind]],
      [steps("running"), []],
      [steps("retrying"), []],
      [steps("done"), skipped],
      [`${one.perMinute} / min`, one.p95S === null ? [] : [`p95 ${seconds(one.p95S)}`]],
    ];
    facts.forEach(([text, more], n) => {
      this.cells[n].replaceChildren(String(text), " ", make("span", more.join(", "), "note"));
    });
    const dead = steps("dead");
    this.dead.textContent = dead;
    this.dead.setAttribute("aria-label", `${count(dead, "failed step", "failed steps")} of ${stepName(this.name)}`);
    this.dead.classList.toggle("bad", dead > 0);
    const holder = this.cells.at(-1);
    if (dead > 0 && this.dead.parentNode !== holder) holder.replaceChildren(this.dead);
    if (dead === 0) holder.textContent = "0";
    this.switch.textContent = one.paused ? "Resume" : "Pause";
    this.switch.setAttribute("aria-label", `${one.paused ? "Resume" : "Pause"} ${stepName(this.name)}`);
  }
}
