"""The words of the page: each with one line on what it is, and the heading of docs/methods.md that has its formula."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A quantity in one line. `anchor`: its heading in docs/methods.md."""

    about: str
    anchor: str

    @property
    def link(self) -> str:
        """Where its formula stands."""
        return f"docs/methods.md#{self.anchor}"


def _term(about: str, anchor: str) -> Term:
    return Term(about=about, anchor=anchor)


TERMS = {
    # of a token
    "log-prob": _term("how likely the policy finds the token; 0 is certain, -0.69 one in two", "log-prob"),
    "old log-prob": _term("the log-prob by the policy that sampled the token", "old-log-prob"),
    "reference log-prob": _term("the log-prob by the reference, the policy before training", "reference-log-prob"),
    "kl": _term("how much likelier training made the token: log-prob minus reference log-prob, or k2, k3, exact", "kl"),
    "value": _term("the critic's guess, before the token, of the rewards still to come", "value"),
    "reward": _term("what the token is paid: minus beta times its KL, and the score at the last token", "reward"),
    "advantage": _term("how much better things went from this token on than the critic had foreseen", "advantage"),
    "return": _term("what the critic is trained towards: advantage, before whitening, plus value", "return"),
    "delta": _term("reward plus the next value minus this one: one step's surprise", "return-value-advantage"),
    "ratio": _term("how much likelier the token is after the update than when it was sampled; 1 before it", "ratio"),
    "clipped": _term("the ratio moved so far, the way its advantage asks for, that it has no gradient", "clip"),
    "log-ratio": _term("policy minus reference log-prob; beta times its sum is DPO's reward", "dpo-and-its-family"),
    "entropy": _term("how undecided the policy is about the next token, in nats", "entropy"),
    # of an answer, a pair or a ranking
    "score": _term("what the reward model, or a function, says of a whole answer", "score"),
    "settled score": _term("the score after scale, clip and penalty", "score"),
    "prefix score": _term("the reward model's score of the answer as far as this token", "score"),
    "prefix change": _term("by how much the token moved the score of the answer so far", "score"),
    "margin": _term("by how much the better answer of a pair is ahead", "margin"),
    "implicit reward": _term("beta times an answer's log-ratio, its sum or its mean a token", "dpo-and-its-family"),
    # of a run
    "loss": _term("what training lowers", "finetuning"),
    "actor loss": _term("minus the clipped surrogate, a token", "actor-and-critic"),
    "critic loss": _term("squared error of the values against the returns, a token", "actor-and-critic"),
    "kl per answer": _term("nats per answer between the policy and the reference, summed over its tokens", "kl"),
    "length": _term("tokens per answer, the one that ends it included", "notation"),
    "stopped": _term("share of the answers that end by themselves, before the length limit", "rlhf-with-ppo"),
    "explained variance": _term("share of the returns' variance that the critic foresees", "value"),
    "clip fraction": _term("share of the tokens that are clipped", "clip"),
    "accuracy": _term("share of the pairs in which the better answer scores higher", "a-reward-model-from-rankings"),
    "objective": _term("what PPO raises: the score less beta times the KL, an answer", "kl-to-the-reference"),
    "score-length correlation": _term(
        "linear correlation of score and length among the answers of a round; 0 where there is none", "score"
    ),
    "beta": _term("the weight of the KL in the reward, or of the log-ratios in DPO", "notation"),
    "distinct bigrams": _term("share of neighbouring token pairs that differ; low is repetition", "notation"),
    "gold": _term("a score that nothing was trained on, to judge by", "what-both-aim-at"),
    "win rate": _term("share of the prompts at which it beats the other model; ties count half", "what-both-aim-at"),
}  # fmt: skip


def term(name: str) -> Term:
    """The term of a name. Raises KeyError for one that the page does not explain."""
    return TERMS[name]


_OF_METRICS = {
    "loss": "loss",
    "actor_loss": "actor loss",
    "critic_loss": "critic loss",
    "accuracy": "accuracy",
    "margin": "margin",
    "score": "score",
    "score_greedy": "score",
    "score_sampled": "score",
    "reward": "settled score",
    "kl": "kl per answer",
    "kl_k3": "kl per answer",
    "kl_exact": "kl per answer",
    "objective": "objective",
    "length": "length",
    "stopped": "stopped",
    "entropy": "entropy",
    "sampled_entropy": "entropy",
    "distinct_bigrams": "distinct bigrams",
    "explained_variance": "explained variance",
    "clip_fraction": "clip fraction",
    "ratio": "ratio",
    "ratio_max": "ratio",
    "beta": "beta",
    "chosen_logratio": "log-ratio",
    "rejected_logratio": "log-ratio",
}


def of_metric(name: str) -> Term | None:
    """The term behind a metric of metrics.jsonl, by its name without `eval_`; None where the page explains none."""
    found = _OF_METRICS.get(name)
    return None if found is None else TERMS[found]
