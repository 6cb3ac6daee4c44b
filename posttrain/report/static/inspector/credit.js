// How an advantage came out of rewards and values, in the formulas of docs/methods.md. Numbers of files are float32,
// and so were the sums that made them; here they are added in float64, so that what is left is their rounding.

const ROUNDING = 2 ** -23; // of a float32, relative to it
const OPERATIONS = 4; // that round, for every term

/**
 * The advantage of token `place` as a sum of discounted deltas: `{terms, raw}`, with `delta = reward + gamma next -
 * value` and `part = weight delta` of each term, and `size`, all that was added without its sign.
 */
export function deltas({ rewards, values }, place, { gamma, lam, baseline }) {
  const trust = baseline === "none" ? 1 : lam; // without a critic V = 0 and the advantage is the return
  const terms = [];
  let [raw, size, weight] = [0, 0, 1];
  for (let at = place; at < rewards.length; at += 1) {
    const [reward, value, next] = [rewards[at], values?.[at] ?? 0, values?.[at + 1] ?? 0];
    const delta = reward + gamma * next - value;
    terms.push({ place: at, reward, value, next, delta, weight, part: weight * delta });
    raw += weight * delta;
    size += weight * (Math.abs(reward) + Math.abs(gamma * next) + Math.abs(value));
    weight *= gamma * trust;
  }
  return { terms, raw, size };
}

/** The advantage of a whole answer among those to its prompt: less the others' mean, or in deviations of the group. */
export function amongAnswers({ totals, own }, baseline) {
  const total = totals[own];
  const sum = totals.reduce((before, each) => before + each, 0);
  const size = totals.reduce((before, each) => before + Math.abs(each), 0);
  if (baseline === "rloo") {
    const others = totals.length > 1 ? (sum - total) / (totals.length - 1) : total;
    return { total, compared: others, count: totals.length, divisor: 1, raw: total - others, size };
  }
  const mean = sum / totals.length;
  const squares = totals.reduce((before, each) => before + (each - mean) ** 2, 0);
  const deviation = Math.sqrt(squares / Math.max(1, totals.length - 1));
  const divisor = deviation + 1e-6; // so that equal totals give 0
  return { total, compared: mean, count: totals.length, divisor, deviation, raw: (total - mean) / divisor, size: size / divisor };
}

/** What whitening made of an advantage; null where the file does not have the mean and the deviation of its round. */
export function whitened(raw, { whiten, mean, deviation }) {
  if (!whiten) return { value: raw, mean: 0, deviation: 1, is: false };
  if (typeof mean !== "number" || typeof deviation !== "number") return null;
  return { value: (raw - mean) / deviation, mean, deviation, is: true };
}

/** Why the stored advantage of a token is what it is: all that is shown of it. Null where a number is missing. */
export function credited(rollout, answer, place) {
  const { settings, group } = rollout;
  const { advantages, rewards } = answer.columns;
  if (!advantages || !rewards || typeof settings.gamma !== "number") return null;
  const among = group ? amongAnswers(group, settings.baseline) : null;
  const sum = among ?? deltas(answer.columns, place, settings);
  const white = whitened(sum.raw, settings);
  const stored = advantages[place];
  if (!white) return { among, ...sum, white, stored };
  const scale = (sum.size + Math.abs(white.mean)) / white.deviation + Math.abs(stored);
  const count = (sum.terms?.length ?? sum.count) + OPERATIONS;
  return { among, ...sum, white, stored, off: white.value - stored, allowed: ROUNDING * OPERATIONS * Math.sqrt(count) * scale };
}

/** The reward of a token in its parts, `[{name, value, how}]`; null where the settings do not say how it was made. */
export function paid({ settings }, answer, place) {
  const { kl } = answer.columns;
  const settled = answer.numbers.settled_score?.[0];
  const { beta, form, kl_in: where } = settings;
  if (!kl || settled === undefined || typeof beta !== "number" || !form) return null;
  const weight = where === "loss" ? 0 : beta;
  const [last, length] = [place === kl.length - 1, kl.length];
  const penalty = { name: "−β · kl", value: -weight * kl[place], how: [weight, kl[place]] };
  if (form === "token") return last ? [penalty, { name: "score, at the last token", value: settled }] : [penalty];
  if (form === "spread") return [penalty, { name: `score / ${length} tokens`, value: settled / length }];
  if (!last) return [];
  const mean = kl.reduce((before, each) => before + each, 0) / length;
  return [
    { name: "−β · mean kl of the answer", value: -weight * mean, how: [weight, mean] },
    { name: "score, at the last token", value: settled },
  ];
}
