// Colours of a quantity: eleven steps, what is neutral in the middle, as far below it as above. The steps widen with
// the square, so that small values are told apart beside one that is large.

export const STEPS = 5; // on each side

/** Where a value stands among all: a ratio by its logarithm, a flag by being true. */
export function placed(value, kind) {
  return kind === "ratio" ? Math.log(value) : value;
}

/** The largest distance from the middle among some values; 0 where none has any. */
export function reach(values, kind) {
  let most = 0;
  for (const value of values) {
    const far = Math.abs(placed(value, kind));
    if (Number.isFinite(far) && far > most) most = far;
  }
  return most;
}

/** The step of a value, −5 to 5; null for what is no number. */
export function stepOf(value, most, kind) {
  const at = placed(value, kind);
  if (Number.isNaN(at)) return null;
  if (kind === "flag") return at ? STEPS : 0;
  if (at === 0 || most === 0) return 0;
  const steps = Math.ceil(STEPS * Math.sqrt(Math.min(1, Math.abs(at) / most)) - 1e-9);
  return Math.sign(at) * Math.max(1, steps);
}

/** The value at the outer edge of a step. */
export function edgeOf(step, most, kind) {
  const at = Math.sign(step) * most * (step / STEPS) ** 2;
  return kind === "ratio" ? Math.exp(at) : at;
}
