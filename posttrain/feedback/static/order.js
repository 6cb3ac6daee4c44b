// An order of answers: tiers from best to worst, ties within a tier, and what is not ranked yet.
// Every function gives a new order and leaves the old one as it is.

/** An order of `keys` in which nothing is ranked, or what `tiers` ranks. `tie`: the next one joins the last tier. */
export function orderOf(keys, tiers = []) {
  const seen = new Set();
  const known = (key) => keys.includes(key) && !seen.has(key) && seen.add(key);
  return { keys: [...keys], tiers: filled(tiers.map((tier) => tier.filter(known))), tie: false };
}

/** The keys that no tier holds, in the order in which they were shown. */
export function unranked(order) {
  return order.keys.filter((key) => tierOf(order, key) < 0);
}

/** How many answers are ranked. */
export function rankedCount(order) {
  return order.keys.length - unranked(order).length;
}

/** The number of the tier that holds `key`, or -1. */
export function tierOf(order, key) {
  return order.tiers.findIndex((tier) => tier.includes(key));
}

/** `key` as the last of the order: in a tier of its own, or in the last one where a tie was asked for. */
export function append(order, key) {
  const rest = remove(order, key);
  const last = rest.tiers.length - 1;
  return place({ ...rest, tie: false }, key, order.tie && last >= 0 ? { tier: last } : { gap: last + 1 });
}

/** Asks that the next one ties with the one before, or takes that back. Without a tier there is nothing to tie with. */
export function tieNext(order) {
  return order.tiers.length ? { ...order, tie: !order.tie } : order;
}

/** `key` moved to `{tier}`, tied with what it holds; to `{gap}`, a new tier before that one; or to `null`, not ranked. */
export function place(order, key, target) {
  const tiers = order.tiers.map((tier) => tier.filter((other) => other !== key));
  if (target && "tier" in target) tiers[target.tier].push(key);
  if (target && "gap" in target) tiers.splice(target.gap, 0, [key]);
  const kept = filled(tiers);
  return { ...order, tiers: kept, tie: order.tie && kept.length > 0 };
}

/** `key` not ranked. */
export function remove(order, key) {
  return place(order, key, null);
}

/** `key` one step better (-1) or worse (+1): out of a tie into a tier of its own, or from there into the next tie. */
export function step(order, key, direction) {
  const tier = tierOf(order, key);
  if (tier < 0) return direction < 0 ? append(order, key) : order;
  if (order.tiers[tier].length > 1) return place(order, key, { gap: direction < 0 ? tier : tier + 1 });
  const next = tier + direction;
  return next < 0 || next >= order.tiers.length ? order : place(order, key, { tier: next });
}

/** The order without the last answer that stands in its last tier. */
export function dropLast(order) {
  const last = order.tiers.at(-1);
  return last ? remove({ ...order, tie: false }, last.at(-1)) : order;
}

/** Whether two orders rank the same. */
export function same(one, other) {
  return one.tie === other.tie && JSON.stringify(one.tiers) === JSON.stringify(other.tiers);
}

function filled(tiers) {
  return tiers.filter((tier) => tier.length > 0);
}
