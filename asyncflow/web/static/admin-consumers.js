// The consumers of the admin page: how each does, its steps that failed, and what to do.

import { count, duration, reason, stepName } from "./words.js";

const MOST_LETTERS = 20;
// for as many steps as a bad day leaves behind
const THOUSANDS_MS = 120_000;
const WORDS = {
  dead: ["failed step", "failed steps"],
  refused: ["refused file", "refused files"],
};

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
    this.note = at("letters-note");
    this.all = at("retry-all");
    this.sure = at("letters-sure");
    this.say = say;
    // whose letters are shown, and which: "dead" or "refused"
    this.opened = null;
    this.which = "dead";
    this.rows = new Map();
    this.all.addEventListener("click", () => this.do(() => this.retryAll()));
    at("letters-really").addEventListener("click", () => this.do(() => this.retryEach()));
    at("letters-keep").addEventListener("click", () => this.ask(false));
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

  async open(name, which) {
    this.opened = name;
    this.which = which;
    this.ask(false);
    this.letters.hidden = false;
    await this.showLetters();
    this.title.focus();
  }

  close() {
    const name = this.opened;
    this.opened = null;
    this.letters.hidden = true;
    this.rows.get(name)?.opens[this.which].focus();
  }

  async showLetters() {
    const name = encodeURIComponent(this.opened);
    const page = await this.server.get(`admin/consumers/${name}/dead?which=${this.which}&limit=${MOST_LETTERS}`);
    const more = page.next === null ? "" : ", the newest of many";
    const number = count(page.steps.length, ...WORDS[this.which]);
    this.title.textContent = `${stepName(this.opened)}: ${number}${more}`;
    this.note.hidden = this.which !== "refused";
    this.all.hidden = page.steps.length === 0 || !this.sure.hidden;
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
        // the button is gone with its step, unless somebody has gone on meanwhile
        if (document.activeElement === document.body) this.title.focus();
      }),
    );
    const name = make("span", one.fileName, "name");
    name.dir = "auto";
    item.append(name, make("span", why, "problem"), retry);
    return item;
  }

  // Files that are at fault themselves are not tried again at the first press.
  async retryAll() {
    if (this.which === "refused") this.ask(true);
    else await this.retryEach();
  }

  ask(isAsking) {
    const had = this.letters.contains(document.activeElement);
    this.sure.hidden = !isAsking;
    this.all.hidden = isAsking;
    if (had) (isAsking ? this.sure.querySelector("button") : this.title).focus();
  }

  async retryEach() {
    const name = encodeURIComponent(this.opened);
    const path = `admin/consumers/${name}/retry?which=${this.which}`;
    const done = await this.server.send("POST", path, THOUSANDS_MS);
    this.ask(false);
    this.say(`${count(done.steps, "step is", "steps are")} tried again.`);
    await this.refresh();
  }
}

// what the head of the table says, for where each row is a card of its own
const COLUMNS = ["Waiting", "Running", "Trying again", "Done", "Lately", "Failed", "Refused"];

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
    this.opens = { dead: this.opener("dead"), refused: this.opener("refused") };
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

  opener(which) {
    const button = make("button", "", "open");
    button.type = "button";
    button.addEventListener("click", () => this.table.do(() => this.table.open(this.name, which)));
    return button;
  }

  // A number that opens what it counts.
  showLetters(which, number, holder) {
    const button = this.opens[which];
    button.textContent = number;
    const said = `${count(number, ...WORDS[which])} of ${stepName(this.name)}`;
    button.setAttribute("aria-label", said);
    if (number > 0 && button.parentNode !== holder) holder.replaceChildren(button);
    if (number === 0) holder.textContent = "0";
  }

  show(one) {
    const steps = (state) => one.steps[state] ?? 0;
    this.paused = one.paused;
    const notes = [];
    if (one.paused) notes.push("paused");
    if (one.runs === "elsewhere") notes.push(`not here, but on ${one.nodes.join(", ")}`);
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
    this.showLetters("dead", steps("dead"), this.cells.at(-2));
    this.showLetters("refused", steps("refused"), this.cells.at(-1));
    this.opens.dead.classList.toggle("bad", steps("dead") > 0);
    this.switch.textContent = one.paused ? "Resume" : "Pause";
    this.switch.setAttribute("aria-label", `${one.paused ? "Resume" : "Pause"} ${stepName(this.name)}`);
  }
}
