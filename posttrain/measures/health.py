"""Health in words: rules that look at the rounds of a policy and say what they see, in what state, by which rule.

A rule gives None for a run that does not measure what it is about, and the state `unknown` for one that is too short.
"Lately" is the last fifth of the rounds, "at first" the first fifth. Limits are where to look, not laws: what they are
good for depends on the reward.
"""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.measures.finding import Finding, Health, Rule, above, badness, below, judged, worst_first
from posttrain.measures.gold import gold_against_proxy, golds
from posttrain.measures.quantities import Row, course, length_ratio, not_ended, of, rounds

# --- how far the policy went ----------------------------------------------------------------------------------------


def kl_level(rows: Sequence[Row], *, watch: float = 10.0, act: float = 20.0) -> Finding | None:
    """How far the policy is from where it began, in nats per answer."""
    found = course(rows, of("kl"))
    rule = f"kl (k1, nats per answer) lately: watch above {watch:g}, act above {act:g} or below -1"

    def say() -> tuple[Health, str]:
        nats = found.recent
        if nats < -1.0:
            what = "a KL is never negative: the answers do not come from the policy that is compared"
            return "act", f"The KL is estimated at {nats:.3g} nats per answer; {what}."
        means = {
            "fine": "near enough for the reward to know what it scores",
            "watch": "read some answers for what the reward overrates",
            "act": "a reward is hardly right so far away; raise beta, or take an earlier step",
        }
        state = above(nats, watch, act)
        return state, f"The policy is {nats:.3g} nats per answer away from where it began: {means[state]}."

    return judged("KL, level", found, rule, say)


def kl_speed(rows: Sequence[Row], *, watch: float = 1.0, act: float = 3.0) -> Finding | None:
    """How fast the policy moves away."""
    found = course(rows, of("kl"))
    rule = f"nats per answer that a {found.unit} adds in the later half: watch above {watch:g}, act above {act:g}"

    def say() -> tuple[Health, str]:
        speed = found.speed
        means = {
            "fine": "steady",
            "watch": "it will be far away soon",
            "act": "the updates are too large; lower learning_rate, fewer ppo_epochs, or epoch_kl_stop",
        }
        state = above(speed, watch, act)
        return state, f"A {found.unit} adds {speed:.2g} nats per answer to the KL: {means[state]}."

    return judged("KL, speed", found, rule, say)


def clipping(rows: Sequence[Row], *, watch: float = 0.1, act: float = 0.3) -> Finding | None:
    """How many tokens had moved beyond the clip range."""
    found = course(rows, of("clip_fraction"))
    rule = f"clip_fraction lately: watch above {watch:g}, act above {act:g}"

    def say() -> tuple[Health, str]:
        state = above(found.recent, watch, act)
        means = {
            "fine": "the updates stay near the policy that sampled",
            "watch": "the updates of a round go far",
            "act": "most of a round's updates are wasted; lower learning_rate, fewer ppo_epochs, or epoch_kl_stop",
        }
        return state, f"{found.recent:.1%} of the tokens are clipped: {means[state]}."

    return judged("clip fraction", found, rule, say)


# --- what became of the answers ---------------------------------------------------------------------------------------


def length_growth(rows: Sequence[Row], *, watch: float = 1.5, act: float = 2.5) -> Finding | None:
    """How much longer, or shorter, answers became."""
    found = course(rows, length_ratio)
    rule = (
        f"length over that of the first {found.unit}, lately: watch above {watch:g} or below {1 / watch:.2g}, "
        f"act above {act:g} or below {1 / act:.2g}"
    )

    def say() -> tuple[Health, str]:
        ratio = found.recent
        state = above(max(ratio, 1 / ratio if ratio > 0 else act + 1), watch, act)
        way = "longer" if ratio > 1 else "shorter"
        means = {
            "fine": "no habit of length",
            "watch": f"see whether the {way} ones are better, or only {way}",
            "act": f"the reward pays for {way} answers; compare at equal length, or penalise it",
        }
        return state, f"Answers are {ratio:.2f} times as long as at first: {means[state]}."

    return judged("length growth", found, rule, say)


def reward_and_length(
    rows: Sequence[Row], *, watch: float = 0.4, act: float = 0.7, grown: float = 1.5
) -> Finding | None:
    """How far the reward goes by length."""
    found, lengths = course(rows, of("score_length_correlation")), course(rows, length_ratio)
    rule = (
        f"correlation of score and length within a {found.unit}, lately: watch beyond {watch:g}, "
        f"act beyond {act:g}, or above {watch:g} while answers are over {grown:g} times as long"
    )

    def say() -> tuple[Health, str]:
        with_length = found.recent
        state = above(abs(with_length), watch, act)
        hacked = with_length > watch and bool(lengths) and lengths.recent > grown
        state = "act" if hacked else state
        which = "longer" if with_length > 0 else "shorter"
        means = {
            "fine": "length explains little of it",
            "watch": f"{which} answers score higher; the policy may learn that alone",
            "act": f"the reward pays for {which} answers" + (", and they grow" if hacked else ""),
        }
        return state, f"Score and length correlate at {with_length:.2f}: {means[state]}."

    return judged("reward and length", found, rule, say)


def entropy(rows: Sequence[Row], *, watch: float = 0.5, act: float = 0.2) -> Finding | None:
    """How much of its choice the policy has kept."""
    found = course(rows, of("sampled_entropy"))
    rule = (
        f"sampled_entropy lately, of that at first: watch below {watch:g} or above {1 / watch:g}, "
        f"act below {act:g} or above {1 / act:g}"
    )

    def say() -> tuple[Health, str]:
        now, before = found.recent, found.early
        kept = now / before if before > 0 else 1.0
        state = max((below(kept, watch, act), above(kept, 1 / watch, 1 / act)), key=badness)
        means = {
            "fine": "it still has a choice",
            "watch": "answers become alike" if kept < 1 else "answers become random",
            "act": "the policy has collapsed; a larger beta, an entropy bonus, or an earlier step"
            if kept < 1
            else "the policy falls apart; lower learning_rate",
        }
        return state, f"The entropy went from {before:.3g} to {now:.3g} nats per token: {means[state]}."

    return judged("entropy", found, rule, say)


def repetition(rows: Sequence[Row], *, watch: float = 0.9, act: float = 0.7) -> Finding | None:
    """How far answers repeat themselves."""
    found = course(rows, of("distinct_bigrams"))
    rule = f"distinct_bigrams lately, of those at first: watch below {watch:g}, act below {act:g}"

    def say() -> tuple[Health, str]:
        now, before = found.recent, found.early
        state = below(now / before if before > 0 else 1.0, watch, act)
        means = {
            "fine": "no more repetition than at first",
            "watch": "answers begin to repeat themselves",
            "act": "answers go round in circles; see what the reward gives them",
        }
        return state, f"{now:.0%} of an answer's pairs of tokens are distinct, {before:.0%} at first: {means[state]}."

    return judged("repetition", found, rule, say)


def endings(rows: Sequence[Row], *, watch: float = 0.2, act: float = 0.5) -> Finding | None:
    """How many answers the length limit cut."""
    found = course(rows, not_ended)
    rule = f"share of answers that did not end by themselves, lately: watch above {watch:.0%}, act above {act:.0%}"

    def say() -> tuple[Health, str]:
        state = above(found.recent, watch, act)
        means = {
            "fine": "answers end",
            "watch": "some are cut; raise max_new_tokens, or missing_eos_penalty",
            "act": "the reward sees fragments; raise max_new_tokens, or missing_eos_penalty",
        }
        return state, f"{found.recent:.0%} of the answers did not end by themselves: {means[state]}."

    return judged("endings", found, rule, say)


# --- the critic -------------------------------------------------------------------------------------------------------


def critic_fit(rows: Sequence[Row], *, watch: float = 0.2, act: float = 0.0) -> Finding | None:
    """How much of the returns the critic foresees."""
    found = course(rows, of("explained_variance"))
    rule = f"explained_variance lately: watch below {watch:g}, act below {act:g}"

    def say() -> tuple[Health, str]:
        state = below(found.recent, watch, act)
        means = {
            "fine": "its values take noise out of the advantages",
            "watch": "it helps little yet",
            "act": "a constant would do better; raise critic.learning_rate or critic.warmup",
        }
        return state, f"The critic explains {found.recent:.2f} of the variance of the returns: {means[state]}."

    return judged("explained variance", found, rule, say)


OF_ROUNDS: tuple[Rule, ...] = (
    kl_level, kl_speed, length_growth, reward_and_length, entropy, critic_fit, clipping, repetition, endings,
)  # fmt: skip
"""The rules on the rounds of a policy that learns from its own answers."""


def of_rounds(rows: Sequence[Row]) -> list[Finding]:
    """What the rules find of a run of PPO or online DPO, the worst first."""
    rows = rounds(rows)
    found = [finding for rule in OF_ROUNDS if (finding := rule(rows)) is not None]
    found += [finding for name in golds(rows) if (finding := gold_against_proxy(rows, name)) is not None]
    return worst_first(found)
