// Bars per minute as an SVG: what went well above the line, the rest below it.

import { count } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const MINUTES = 60;
const UP = 70;
const DOWN = 28;

const label = (tag, text) => {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
};

const shape = (tag, attributes) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

const bad = (minute) => minute.failed + minute.rejected + minute.cancelled;
const sum = (minutes, value) => minutes.reduce((total, one) => total + value(one), 0);

// Put the chart of `minutes` (oldest first) into `place`.
export const draw = (place, minutes) => {
  const most = Math.max(1, ...minutes.map((one) => Math.max(one.completed, bad(one))));
  const done = sum(minutes, (one) => one.completed);
  const failed = sum(minutes, bad);
  const uploaded = sum(minutes, (one) => one.uploaded);
  const words = [
    count(uploaded, "upload", "uploads"),
    `${count(done, "job", "jobs")} completed`,
    `${failed} failed, refused or cancelled`,
  ].join(", ");
  const picture = shape("svg", {
    viewBox: `0 0 ${MINUTES * 10} 100`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": words,
  });
  minutes.forEach((minute, at) => {
    // the last minute stands at the right, however long the server has run
    const x = (MINUTES - minutes.length + at) * 10 + 1;
    const up = (UP * minute.completed) / most;
    const down = (DOWN * bad(minute)) / most;
    if (up) picture.append(shape("rect", { class: "good", x, y: UP - up, width: 8, height: up }));
    if (down) {
      const least = Math.max(down, 2);
      picture.append(shape("rect", { class: "bad", x, y: UP + 1, width: 8, height: least }));
    }
  });
  picture.append(shape("line", { x1: 0, x2: MINUTES * 10, y1: UP, y2: UP }));
  const axis = document.createElement("p");
  axis.className = "axis";
  axis.append(label("span", "an hour ago"), label("span", "now"));
  place.replaceChildren(picture, axis, label("p", `${words}.`));
};
