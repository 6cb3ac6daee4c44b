// The token inspector: what is chosen, drawn anew where it changes.

import { moveOf, offered, ordered, quantityButtons, rolloutChoices } from "./choices.js";
import { lessonOf } from "./lesson.js";
import { legendOf } from "./legend.js";
import { panelOf, spokenOf } from "./panel.js";
import { Carried, Served } from "./rollouts.js";
import { answersOf, coloured, running, told } from "./tokens.js";
import { element } from "./text.js";

class TokenInspector {
  constructor(root, payload) {
    this.root = root;
    this.source = payload.live ? new Served(payload) : new Carried(payload);
    this.facts = payload;
    this.quantity = Math.max(0, payload.quantities.findIndex(({ key }) => key === payload.shown_first));
    this.step = this.source.steps.at(-1)?.step;
    this.at = { answer: 0, place: 0 };
    this.asked = 0;
    this.#listen();
    this.#offerSteps();
    this.goToStep(this.step);
  }

  find(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  #listen() {
    this.find("step").addEventListener("change", ({ target }) => this.goToStep(Number(target.value)));
    this.find("rollout").addEventListener("change", ({ target }) => this.goToRollout(Number(target.value)));
    this.find("order").addEventListener("change", () => this.#reorder());
    for (const button of this.root.querySelectorAll("[data-move]")) {
      button.addEventListener("click", () => this.move(button.dataset.move, Number(button.dataset.by)));
    }
    this.find("written").addEventListener("change", ({ target }) => this.root.classList.toggle("written", target.checked));
    this.find("quantities").replaceChildren(...quantityButtons(this.facts.quantities, (place) => this.choose(place)));
    this.find("lesson").addEventListener("click", ({ target }) => this.#fromTable(target));
    this.root.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const move = moveOf(event);
    if (!move) return;
    event.preventDefault();
    if (move[0] === "quantity") this.choose(move[1]);
    else this.move(move[0], move[1], { focus: Boolean(event.target.closest(".tokens, [data-part=tokens]")) });
  }

  #fromTable(target) {
    const place = target.closest("tr")?.dataset.place;
    const answer = target.closest("table")?.dataset.answer;
    if (place !== undefined) this.goToToken({ answer: Number(answer), place: Number(place) });
  }

  #offerSteps() {
    const words = { ppo: "round", "online-dpo": "round" }[this.facts.method] ?? "step";
    offered(this.find("step"), this.source.steps.map(({ step }) => [step, `${words} ${step}`]), this.step);
  }

  /** New steps of a run that goes on; what is looked at stays, and is read again where its step has more columns. */
  grown(steps) {
    const columns = (all) => all.find(({ step }) => step === this.step)?.columns;
    const more = columns(this.source.steps) !== columns(steps);
    this.source.steps = steps;
    this.#offerSteps();
    this.#ends();
    if (more) this.goToRollout(this.row, { focus: this.find("tokens").contains(document.activeElement) });
  }

  /** One further of `what`, in its order. */
  move(what, by, { focus = false } = {}) {
    if (what === "token") return this.#moveToken(by, focus);
    if (what === "rollout") {
      const next = this.listed[this.#place() + by];
      return next ? this.goToRollout(next.row, { focus }) : undefined;
    }
    const steps = this.source.steps.map(({ step }) => step);
    const next = steps[steps.indexOf(this.step) + by];
    return next === undefined ? undefined : this.goToStep(next, { focus });
  }

  #moveToken(by, focus) {
    if (!this.rollout) return;
    const lengths = this.rollout.answers.map((answer) => answer.tokens.length);
    let { answer, place } = this.at;
    if (Math.abs(by) === Infinity) place = by < 0 ? 0 : lengths[answer] - 1;
    else if (place + by >= 0 && place + by < lengths[answer]) place += by;
    else {
      const next = by > 0 ? lengths.findIndex((length, each) => each > answer && length) : lengths.findLastIndex((length, each) => each < answer && length);
      if (next >= 0) [answer, place] = [next, by > 0 ? 0 : lengths[next] - 1];
    }
    this.goToToken({ answer, place }, { focus: focus || this.root.contains(document.activeElement) });
  }

  #reorder() {
    this.listed = ordered(this.kept, this.find("order").value);
    this.goToRollout(this.listed[0].row);
  }

  #place() {
    return this.listed.findIndex(({ row }) => row === this.row);
  }

  /** Another step; the rollout at the same place in its list, as far as there is one. */
  async goToStep(step, { focus = false } = {}) {
    if (step === undefined) return;
    const [turn, before] = [(this.asked += 1), this.listed ? this.#place() : 0];
    const kept = await this.#told(() => this.source.listed(step));
    if (!kept || turn !== this.asked) return;
    const listed = ordered(kept, this.find("order").value);
    Object.assign(this, { step, kept, listed });
    this.find("step").value = String(step);
    await this.goToRollout(listed[Math.min(Math.max(0, before), listed.length - 1)].row, { focus });
  }

  /** Another rollout of the step; the token at the same place of it, as far as it goes. */
  async goToRollout(row, { focus = false } = {}) {
    const turn = (this.asked += 1);
    const rollout = await this.#told(() => this.source.whole(this.step, row));
    if (!rollout || turn !== this.asked) return;
    Object.assign(this, { row, rollout });
    offered(this.find("rollout"), rolloutChoices(this.listed, this.#place(), this.facts.method), row);
    this.#draw();
    this.goToToken(nearest(rollout, this.at), { focus });
    this.#ends();
  }

  /** The value of a promise; what went wrong is said in the page. */
  async #told(work) {
    this.root.setAttribute("aria-busy", "true");
    try {
      const found = await work();
      this.find("problem").textContent = "";
      return found;
    } catch (error) {
      this.find("problem").textContent = `This cannot be shown: ${error.message}`;
      return null;
    } finally {
      this.root.removeAttribute("aria-busy");
    }
  }

  #draw() {
    const { rollout } = this;
    const prompt = running(this.source.pieces, rollout.prompt);
    this.find("prompt").textContent = prompt || "(no prompt)";
    const tell = { hovered: (at) => this.#show(at ?? this.at), chosen: (at) => this.goToToken(at) };
    const answers = answersOf(rollout, this.source.pieces, tell);
    this.find("tokens").replaceChildren(...answers);
    this.lists = answers.map((answer) => answer.querySelector(".tokens"));
    const tables = rollout.answers.map((answer) => lessonOf(rollout, answer, this.source.pieces, this.facts.method));
    tables.forEach((table, number) => table?.setAttribute("data-answer", String(number)));
    this.find("lesson").replaceChildren(...tables.filter(Boolean));
    this.find("as-table").hidden = !tables.some(Boolean);
    this.#colour();
  }

  /** Tokens by another quantity. */
  choose(place) {
    if (!this.facts.quantities[place]) return;
    this.quantity = place;
    this.#colour();
    this.#show(this.at);
  }

  #colour() {
    const quantity = this.facts.quantities[this.quantity];
    for (const button of this.find("quantities").children) button.setAttribute("aria-pressed", String(button.dataset.key === quantity?.key));
    if (!quantity || !this.rollout) return;
    const most = coloured(this.lists, this.rollout, quantity);
    const clipped = this.rollout.answers.some(({ columns }) => columns.clipped?.includes(1));
    this.find("legend").replaceChildren(element("b", {}, quantity.label), " ", ...legendOf(quantity, most, clipped));
    this.find("about").replaceChildren(`${quantity.about} `, element("span", { className: "link" }, quantity.link));
  }

  /** Another token is the chosen one. */
  goToToken(at, { focus = false } = {}) {
    for (const chosen of this.root.querySelectorAll(".token[aria-selected=true]")) {
      chosen.removeAttribute("aria-selected");
      chosen.tabIndex = -1;
    }
    this.at = at;
    const token = this.lists[at.answer].children[at.place];
    token?.setAttribute("aria-selected", "true");
    if (token) token.tabIndex = 0;
    if (focus && document.activeElement !== token) token?.focus();
    for (const row of this.find("lesson").querySelectorAll("tr[data-place]")) {
      const here = Number(row.dataset.place) === at.place && Number(row.closest("table").dataset.answer) === at.answer;
      row.classList.toggle("here", here);
    }
    this.#show(at);
  }

  #show(at) {
    const { rollout, facts } = this;
    const { pieces } = this.source;
    const [panel, place] = [this.find("panel"), `${at.answer} ${at.place}`];
    if (this.drawn !== rollout || panel.dataset.at !== place) {
      this.drawn = rollout; // what stands there stays, as somebody may be about to open a part of it
      panel.dataset.at = place;
      panel.replaceChildren(...panelOf({ rollout, pieces, facts, at }));
    }
    const quantity = facts.quantities[this.quantity];
    if (quantity && at === this.at) this.find("spoken").textContent = spokenOf({ rollout, pieces, at, quantity, told });
  }

  #ends() {
    const steps = this.source.steps.map(({ step }) => step);
    const ends = { step: [steps.indexOf(this.step), steps.length], rollout: [this.#place(), this.listed.length] };
    for (const button of this.root.querySelectorAll("[data-move]")) {
      const [place, count] = ends[button.dataset.move];
      const beyond = place + Number(button.dataset.by);
      button.disabled = beyond < 0 || beyond >= count;
    }
  }
}

/** The token nearest to a place that there may not be in this rollout; an answer without any is passed over. */
function nearest({ answers }, at) {
  const wanted = Math.min(at.answer, answers.length - 1);
  const answer = answers[wanted].tokens.length ? wanted : Math.max(0, answers.findIndex(({ tokens }) => tokens.length));
  return { answer, place: Math.max(0, Math.min(at.place, answers[answer].tokens.length - 1)) };
}

let inspector = null;

/** The inspector of a page that has its data. */
function begin() {
  const data = document.getElementById("inspection");
  if (data && !inspector) inspector = new TokenInspector(document.getElementById("inspector"), JSON.parse(data.textContent));
}

begin();
document.addEventListener("inspection", begin); // a run that is followed has kept its first rollouts
document.addEventListener("steps", ({ detail }) => inspector?.grown(detail));
