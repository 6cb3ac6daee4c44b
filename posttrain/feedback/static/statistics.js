// The state of a ranking in tables and bars, read again every few seconds while somebody looks.

import { banner } from "./notices.js";
import { get, plainly } from "./server.js";
import { element, readable } from "./text.js";

const AGAIN = 5_000; // milliseconds
const WIDTH = 160; // of a picture, in its own units
const SVG = "http://www.w3.org/2000/svg";
const find = (selector) => document.querySelector(selector);
const percent = (share) => (typeof share === "number" ? `${Math.round(share * 100)} %` : "–");
const plain = (number) => number.toFixed(2).replace("-", "−");
// What each measure is called, what it means, how it is written, and the value that says nothing.
const MEASURES = {
  alpha: ["Krippendorff's alpha", "1: people always agree; 0: as much as by chance", plain, 0],
  agreement: ["pairwise agreement", "two people put two answers in the same order", percent, null],
  self_consistency: ["self-consistency", "a person does so again, asked a second time", percent, null],
  position_bias: ["shown first wins", "50 %: the place on the page plays no part", percent, 0.5],
  length_bias: ["longer wins", "50 %: length plays no part", percent, 0.5],
};

async function look() {
  const answer = await get("/api/statistics");
  banner("away", answer.status === 200 ? null : plainly(answer));
  if (answer.status === 200) show(answer.body);
}

function show(told) {
  progress(told);
  find("#measures").replaceChildren(...Object.entries(MEASURES).map(([name, words]) => measure(told[name], words)));
  const most = Math.max(1, ...told.annotators.map(({ ranked }) => ranked));
  find("#people").replaceChildren(...told.annotators.map((person) => personal(person, most)));
  const flags = Object.entries(told.flags ?? {}).map(([flag, count]) => `${flag} ${count}`);
  find("#flags-told").textContent = flags.length ? `Flags: ${flags.join(", ")}` : "";
  find("#undisputed").hidden = told.disputed.length > 0;
  find("#disputed").replaceChildren(...told.disputed.map(dispute));
  find("#settled").replaceChildren(...(told.adjudications ?? []).map(settled));
  find("#fresh").textContent = `As of ${new Date().toLocaleTimeString()}; read again every few seconds.`;
}

function progress({ progress: told, last_hour, pace_per_hour }) {
  find("#done").textContent = `${told.done} of ${told.of} items are ranked`;
  find("#bar").max = Math.max(1, told.of);
  find("#bar").value = told.done;
  const hours = pace_per_hour ? (told.of - told.done) / pace_per_hour : null;
  const left = hours === null ? "–" : hours < 1 ? `${Math.ceil(hours * 60)} min` : `${hours.toFixed(1)} h`;
  const numbers = {
    rankings: told.rankings,
    "second opinions": `${told.second.done} of ${told.second.of}`,
    skipped: told.skipped,
    "can't judge": told.cant_judge,
    "closed as such": told.closed,
    "kept for checks": told.audit,
    "in the last hour": last_hour,
    "per hour of work": pace_per_hour === null ? "–" : Math.round(pace_per_hour).toLocaleString("en"),
    "work left": told.done < told.of ? left : "none",
  };
  find("#numbers").replaceChildren(
    ...Object.entries(numbers).map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, String(value))),
    ),
  );
}

function measure(estimate, [name, meaning, written, nothing]) {
  const cells = estimate
    ? [
        element("td", { className: "number" }, written(estimate.value)),
        element("td", { className: "number" }, `${written(estimate.low)} to ${written(estimate.high)}`),
        element("td", {}, interval(estimate, nothing)),
        element("td", {}, `${counted(estimate.count, "pair")}, ${counted(estimate.prompts, "prompt")}`),
      ]
    : [element("td", { className: "number" }, "–"), element("td"), element("td"), element("td", {}, "nothing yet")];
  return element("tr", {}, element("th", { scope: "row" }, name), ...cells, element("td", { className: "hint" }, meaning));
}

function personal(person, most) {
  const time = person.median_seconds === null ? "–" : `${Math.round(person.median_seconds)} s`;
  const numbers = [person.skipped, person.cant_judge, person.flags, person.notes, time];
  const shares = [percent(person.agreement), percent(person.self_consistency)];
  return element(
    "tr",
    {},
    element("th", { scope: "row", dir: "auto" }, readable(person.name)),
    element("td", { className: "number" }, String(person.ranked)),
    element("td", {}, bar(person.ranked / most)),
    ...[...numbers, ...shares].map((number) => element("td", { className: "number" }, String(number))),
  );
}

function dispute({ id, prompt, annotators, adjudicated }) {
  const link = element("a", { href: `/adjudicate?item=${encodeURIComponent(id)}`, dir: "auto" }, readable(prompt));
  const who = adjudicated ? `settled by ${adjudicated}` : annotators.join(", ");
  return element("li", {}, link, " ", element("span", { className: "hint" }, who));
}

function settled({ item, annotator }) {
  const link = element("a", { href: `/adjudicate?item=${encodeURIComponent(item)}` }, item);
  return element("li", {}, link, " settled by ", element("bdi", {}, readable(annotator)));
}

/** An interval from 0 to 1 as a line with its value as a dot, and a mark at the value that says nothing. */
function interval({ value, low, high }, nothing) {
  const x = (number) => 6 + Math.max(0, Math.min(1, number)) * (WIDTH - 12);
  const marks = [drawn("line", { x1: x(0), x2: x(1), y1: 10, y2: 10, class: "axis" })];
  if (nothing !== null) marks.push(drawn("line", { x1: x(nothing), x2: x(nothing), y1: 3, y2: 17, class: "axis" }));
  marks.push(drawn("line", { x1: x(low), x2: x(high), y1: 10, y2: 10, class: "range" }));
  marks.push(drawn("circle", { cx: x(value), cy: 10, r: 5, class: "value" }));
  return drawn("svg", { viewBox: `0 0 ${WIDTH} 20`, width: WIDTH, height: 20, "aria-hidden": "true" }, marks);
}

function bar(share) {
  const filled = drawn("rect", { x: 0, y: 4, width: Math.max(1, share * WIDTH), height: 12, rx: 3, class: "value" });
  return drawn("svg", { viewBox: `0 0 ${WIDTH} 20`, width: WIDTH, height: 20, "aria-hidden": "true" }, [filled]);
}

function drawn(name, attributes, children = []) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.append(...children);
  return made;
}

function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

look();
setInterval(() => document.hidden || look(), AGAIN);
