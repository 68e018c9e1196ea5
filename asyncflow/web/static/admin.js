// The admin page: asks the server every two seconds while somebody looks at it, and says
// since when nothing new has come.

import { Activity } from "./admin-activity.js";
import { ConsumerTable } from "./admin-consumers.js";
import { JobList } from "./admin-jobs.js";
import { draw } from "./chart.js";
import { Refused, Server } from "./server.js";
import { count, duration, sentence, size, stepName } from "./words.js";

const EVERY_MS = 2000;
const DRAINED =
  "Draining: uploads are taken, but no step begins until somebody lets them begin again (see “Running steps”), or the server starts anew.";

const STRAYS =
  "Async functions that go on although their step is over, named under “Running steps”. Each keeps what it holds until the server starts anew.";

const server = new Server(new URL("..", import.meta.url).href, null);
const at = (id) => document.getElementById(id);
const say = (text) => {
  at("live").textContent = text;
};
const list = new JobList(server, at);
const table = new ConsumerTable(server, at, say);
const activity = new Activity(server, at, say);

const cell = (tag, text, name = "") => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  if (tag === "th") element.scope = "row";
  return element;
};

const row = (...cells) => {
  const element = document.createElement("tr");
  element.append(...cells);
  return element;
};

const tile = (name, value, note = "") => {
  const box = document.createElement("div");
  box.append(cell("dt", name), cell("dd", value));
  if (note) box.append(cell("dd", note, "note"));
  return box;
};

const age = (seconds) => (seconds === null ? "–" : duration(seconds));

const worker = (one) =>
  row(
    cell("th", `${one.slot + 1} · ${one.pid}`),
    cell("td", one.state === "running" ? "working" : one.state),
    cell("td", one.consumer ? stepName(one.consumer) : "–"),
    cell("td", one.jobId ?? "–"),
    cell("td", size(one.rssBytes)),
    cell("td", one.stepsDone),
  );

// When all that is shown was true.
let shownAt = new Date();

// The numbers stay, but nobody shall take them for those of now.
const grey = (error) => {
  complain(`${error.message} What is shown below is from then.`);
  const what = error instanceof Refused ? "refused" : "no answer";
  at("ready").textContent = `${what} since ${shownAt.toLocaleTimeString()}`;
  at("ready").className = "badge bad";
  document.body.classList.add("stale");
};

const show = (now) => {
  const failing = now.checks.filter((check) => check.reason !== null);
  const [state, colour] = now.draining ? ["draining", "bad"] : ["ready", "good"];
  at("ready").textContent = failing.length > 0 ? "not ready" : state;
  at("ready").className = `badge ${failing.length > 0 ? "bad" : colour}`;
  const drained = now.draining ? DRAINED : "";
  if (at("draining").textContent !== drained) at("draining").textContent = drained;
  at("draining").hidden = !now.draining;
  at("version").textContent = `version ${now.version}`;
  const why = failing.map((check) => `${check.name}: ${check.reason}`);
  complain([...why, ...now.alerts.map((one) => sentence(one.says))].join(" "));
  const busy = now.workers.filter((one) => one.state === "running").length;
  at("now").replaceChildren(
    tile("Steps waiting", now.waiting),
    tile("Oldest waits", age(now.oldestS)),
    tile("Workers busy", `${busy} of ${now.workers.length}`),
    tile("Unfinished uploads", now.openUploads),
    tile("Stored", size(now.storedBytes)),
    tile("Write-ahead log", size(now.walBytes)),
    tile("Loop lag", `${Math.round(now.loopLagS * 1000)} ms`),
    tile("Free on the disk", now.freeBytes === null ? "–" : size(now.freeBytes)),
    tile("Watching", count(now.sockets, "socket", "sockets")),
    ...(now.strays > 0 ? [tile("Do not stop", now.strays, STRAYS)] : []),
  );
  activity.showDrained(now.draining);
  at("workers").replaceChildren(...now.workers.map(worker));
  draw(at("chart"), now.minutes);
};

// An alert speaks when it changes, and only then.
const complain = (text) => {
  if (at("trouble").textContent !== text) at("trouble").textContent = text;
};

const refresh = async () => {
  if (!document.hidden) {
    try {
      const parts = [table.refresh(), activity.refresh(), list.refresh()];
      const [now] = await Promise.all([server.get("admin/overview"), ...parts]);
      show(now);
      document.body.classList.remove("stale");
      shownAt = new Date();
    } catch (error) {
      grey(error);
    }
  }
  setTimeout(refresh, EVERY_MS);
};

refresh();
