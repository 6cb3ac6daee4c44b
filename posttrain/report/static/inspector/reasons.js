// One sentence on a token in plain words, made of the largest part of what its number came from.

import { briefly, enclosed, howMany, percentage } from "./numbers.js";

/** Why the token's number is what it is; `spelt` gives the text of the token at a place of its answer. */
export function because(rollout, answer, place, credit, spelt) {
  if (credit) return ofAdvantage(rollout, answer, place, credit, spelt);
  if (answer.columns.log_ratio) return ofLogRatio(rollout, answer, place);
  if (answer.columns.scores) return ofPrefix(rollout.settings, answer, place);
  return "";
}

function signOf(value) {
  return value < 0 ? "negative" : value > 0 ? "positive" : "zero";
}

function ofAdvantage(rollout, answer, place, credit, spelt) {
  const { stored, among, white } = credit;
  const begin = `This token’s advantage is ${signOf(stored)} (${briefly(stored)})`;
  if (Number.isNaN(stored)) return "This token’s advantage is not a number.";
  if (among) return `${begin} because ${groupReason(among, rollout.settings.baseline)}.${afterGroup(credit)}`;
  if (turned(credit)) return `${begin} because ${turnedReason(credit)}.`;
  const parts = credit.terms.map((term) => ({ size: term.part, told: () => deltaReason(term, place, answer, rollout, spelt) }));
  if (white?.is && white.mean) parts.push({ size: -white.mean, told: () => meanReason(credit) });
  const fitting = parts.filter(({ size }) => Math.sign(size) === Math.sign(stored));
  if (!fitting.length) return `${begin}: nothing that was paid or expected differs from what the critic foresaw.`;
  const largest = fitting.reduce((most, part) => (Math.abs(part.size) > Math.abs(most.size) ? part : most));
  return `${begin} because ${largest.told()}.`;
}

/** Whether whitening alone gave the advantage its sign. */
function turned({ raw, white, stored, allowed = 0 }) {
  return stored !== 0 && Math.abs(raw) > allowed && Math.sign(raw) !== Math.sign(stored) && (white === null || white.is);
}

function turnedReason(credit) {
  if (credit.white) return meanReason(credit);
  return `it is whitened: its own sum is ${briefly(credit.raw)}, from which the mean of the round was taken, which the file does not have`;
}

function meanReason({ raw, white }) {
  const side = raw < white.mean ? "below" : "above";
  return `the tokens of this round had ${briefly(white.mean)} on average before whitening, and this one, with ${briefly(raw)}, is ${side} that`;
}

function deltaReason(term, place, answer, rollout, spelt) {
  const own = newsOf(term, answer, rollout);
  if (term.place === place) return own;
  const apart = term.place - place;
  const where = `“${spelt(term.place)}”, ${howMany(apart, "token")} later`;
  return `of what comes after it, most of all at ${where}: ${own}; of that, ${briefly(term.weight)} counts here`;
}

/** What the news of one token was: what it was paid, or what the critic came to expect after it. */
function newsOf({ place, reward, value, next, delta }, answer, rollout) {
  const { gamma, baseline } = rollout.settings;
  const [last, critic] = [place === answer.tokens.length - 1, baseline === undefined || baseline === "critic"];
  const change = gamma * next - value;
  if (last) {
    const ends = `the answer ends with a reward of ${briefly(reward)}`;
    return critic ? `${ends}, and the critic had foreseen ${delta > 0 ? "only " : ""}${briefly(value)}` : ends;
  }
  if (critic && Math.abs(change) >= Math.abs(reward)) {
    const way = change < 0 ? "less" : "more";
    return `the critic expects ${way} after it than before: ${briefly(next)} where it was ${briefly(value)}`;
  }
  const kl = answer.columns.kl?.[place];
  const nats = kl === undefined ? "" : `, for a kl of ${briefly(kl)} nats`;
  return `it is paid ${briefly(reward)}${nats}`;
}

function groupReason({ total, compared, count }, baseline) {
  const mine = `its answer earned ${briefly(total)} in all`;
  if (count < 2) return `${mine}, and there is no other answer to compare it with`;
  if (baseline === "rloo") return `${mine}, where ${howMany(count - 1, "other answer")} to this prompt earned ${briefly(compared)} on average`;
  return `${mine}, where the ${count} answers to this prompt earned ${briefly(compared)} on average`;
}

function afterGroup({ raw, white, stored }) {
  if (!white?.is || Math.sign(raw) === Math.sign(stored)) return "";
  return ` Before whitening it was ${briefly(raw)}; the mean of the round is ${briefly(white.mean)}.`;
}

function ofLogRatio({ settings }, answer, place) {
  const { log_ratio: ratios, policy, reference } = answer.columns;
  const [value, reward] = [ratios[place], answer.numbers.implicit_reward?.[0]];
  const sum = ratios.reduce((before, each) => before + each, 0);
  const [now, then] = [policy, reference].map((column) => (column ? percentage(Math.exp(column[place])) : "?"));
  const why = value === 0 ? "both give it" : `the policy gives it ${now} where the reference gives it`;
  const begin = `This token’s log-ratio is ${signOf(value)} (${briefly(value)}) because ${why} ${then}.`;
  const whole = ` The whole answer has ${briefly(sum)}`;
  if (reward === undefined || typeof settings.beta !== "number") return `${begin}${whole}.`;
  const of = settings.length_normalize ? "the mean of it" : "that";
  return `${begin}${whole}; β = ${briefly(settings.beta)} times ${of} is its implicit reward, ${briefly(reward)}.`;
}

function ofPrefix(settings, answer, place) {
  const { scores, change } = answer.columns;
  const saved = asSaved(settings, scores[place]);
  if (place === 0) return `After its first token the answer has a score of ${briefly(scores[0])}.${saved}`;
  const by = change[place];
  const verb = by < 0 ? "falls" : by > 0 ? "rises" : "stays as it is";
  const much = by === 0 ? "" : ` by ${briefly(Math.abs(by))}`;
  return `The score ${verb}${much} at this token: from ${briefly(scores[place - 1])} to ${briefly(scores[place])}.${saved}`;
}

/** What the saved model makes of a score, which the file has as the head gives it. */
function asSaved({ shift, scale }, score) {
  if (typeof shift !== "number" || typeof scale !== "number" || (shift === 0 && scale === 1)) return "";
  return ` The saved model centres and scales it: (${briefly(score)} − ${enclosed(shift, briefly)}) / ${briefly(scale)} = ${briefly((score - shift) / scale)}.`;
}
