// The arithmetic behind a reward and an advantage, written out with the numbers of the file.

import { briefly, enclosed, exactly, howMany, signed } from "./numbers.js";
import { element } from "./text.js";

const SHOWN = 12; // terms before the others are folded away

/** The reward of a token as a sum. */
export function rewardWritten(parts, stored, array) {
  const sum = parts.reduce((before, { value }) => before + value, 0);
  const lines = parts.map(({ name, value, how }) => {
    const of = how ? ` = −${plainly(how[0])} × ${enclosed(how[1], plainly)}` : "";
    return line(`${name}${of}`, plainly(value));
  });
  if (!parts.length) lines.push(line("this form pays the last token alone", "0"));
  return [
    element("h5", {}, "Reward, written out"),
    element("dl", { className: "sum" }, ...lines, line("sum", plainly(sum), "total"), line("stored", exactly(stored, array), "stored")),
  ];
}

/** The advantage of a token, written out: what it is a sum of, then whitening, then the number that is stored. */
export function advantageWritten(credit, settings, spelt, array) {
  const before = credit.among ? groupWritten(credit, settings.baseline) : deltasWritten(credit, settings, spelt);
  return [element("h5", {}, "Advantage, written out"), ...before, ...whiteningWritten(credit, array)];
}

function deltasWritten({ terms, raw }, { gamma, lam, baseline }, spelt) {
  const critic = baseline !== "none";
  const formula = critic ? "δ = r + γ V′ − V" : "δ = r: there is no critic, so that V is 0 and λ is 1";
  const numbers = critic ? `γ = ${gamma}, λ = ${lam}` : `γ = ${gamma}`;
  const about = `${formula}; the k-th counts (γλ)ᵏ, with ${numbers}. V′ is the next token’s value, 0 after the last.`;
  const head = ["k", "token", "r", ...(critic ? ["V′", "V"] : []), "δ", "(γλ)ᵏ", "(γλ)ᵏ δ"];
  const rows = terms.map((term, k) => {
    const values = [term.reward, ...(critic ? [term.next, term.value] : []), term.delta, term.weight, term.part];
    const cells = values.map((value) => element("td", { className: "number", title: plainly(value) }, briefly(value)));
    cells.at(-1).dataset.part = String(term.part);
    return element("tr", {}, element("td", {}, String(k)), element("td", {}, element("bdi", { className: "piece" }, spelt(term.place))), ...cells);
  });
  const found = [element("p", { className: "hint" }, about), scrolled(tableOf(head, rows.slice(0, SHOWN)))];
  if (rows.length > SHOWN) found.push(folded(head, rows.slice(SHOWN), terms.slice(SHOWN)));
  found.push(element("dl", { className: "sum" }, line("sum of the last column", plainly(raw), "raw")));
  return found;
}

/** The terms after the first, behind a line that says what they come to; drawn when they are asked for. */
function folded(head, rows, terms) {
  const sum = terms.reduce((before, { part }) => before + part, 0);
  const summary = element("summary", {}, `${howMany(rows.length, "later term")}, together ${briefly(sum)}`);
  return element("details", {}, summary, scrolled(tableOf(head, rows)));
}

function groupWritten({ among: { total, compared, count, deviation }, raw }, baseline) {
  const lines = [line("rewards of this answer, added up", plainly(total))];
  if (baseline === "rloo") lines.push(line(`mean of the ${howMany(count - 1, "other answer")} to this prompt`, plainly(compared)));
  else lines.push(line(`mean of the ${howMany(count, "answer")} to this prompt`, plainly(compared)), line("their deviation", plainly(deviation)));
  const how = baseline === "rloo" ? "their difference" : "difference / deviation";
  return [
    element("p", { className: "hint" }, "Every token of an answer gets the same: the answer is compared with the others to its prompt."),
    element("dl", { className: "sum" }, ...lines, line(how, plainly(raw), "raw")),
  ];
}

function whiteningWritten({ raw, white, stored, off, allowed }, array) {
  const lines = [];
  if (!white) lines.push(line("whitened over the round", "the file does not have the mean and the deviation"));
  else if (white.is) {
    const formula = `whitened: (${plainly(raw)} − ${enclosed(white.mean, plainly)}) / ${plainly(white.deviation)}`;
    lines.push(line(formula, plainly(white.value), "whitened"));
  }
  lines.push(line("stored", exactly(stored, array), "stored"));
  const found = [element("dl", { className: "sum" }, ...lines)];
  if (white) found.push(element("p", { className: "hint off", "data-fits": Math.abs(off) <= allowed }, apart(off, allowed)));
  return found;
}

function apart(off, allowed) {
  if (off === 0) return "That is the stored number, to the last digit.";
  const by = signed(Math.abs(off).toExponential(1));
  if (Math.abs(off) <= allowed) return `The two differ by ${by}: float32 rounding, since training adds in float32.`;
  return `The two differ by ${by}, more than rounding: the settings of this file do not explain it.`;
}

function line(name, value, key) {
  return element("div", { "data-line": key ?? null }, element("dt", {}, name), element("dd", {}, value));
}

function tableOf(head, rows) {
  const names = head.map((name) => element("th", { scope: "col" }, name));
  return element("table", {}, element("thead", {}, element("tr", {}, ...names)), element("tbody", {}, ...rows));
}

function scrolled(table) {
  return element("div", { className: "wide", tabIndex: 0, role: "group", "aria-label": "Terms" }, table);
}

/** A worked-out number with what digits it can have. */
function plainly(value) {
  return signed(String(Number(value.toPrecision(9))));
}
