"""Simulated annotators: they rank by a score with Bradley-Terry noise, through the same doors as people.

An answer's utility is score / scale plus standard Gumbel noise; sorting by it draws a Plackett-Luce ranking, in which
each two answers stand in the order of Bradley-Terry: P(i over j) = sigmoid((score_i - score_j) / scale). Equal texts
share one place. Answers of about equal score that come to stand beside each other are called a tie some of the time.
No person is behind these labels.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

from posttrain.feedback.actions import Told, next_item, say
from posttrain.feedback.asked import Asked
from posttrain.feedback.ledger import Ledger

NAME = "simulated"
"""Who ranked, in rows of files, where there is one such annotator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    """One simulated annotator. Its draws depend on `seed` and on the prompt's id, not on the order of the prompts.

    At `scale` 0 there is no noise.
    """

    scale: float = 0.08
    tie_margin: float = 0.01
    tie_share: float = 0.5
    seed: int = 0

    def rank(self, prompt_id: str, answers: Sequence[str], scores: Sequence[float]) -> list[int]:
        """Ranks of the answers, 1 is best; equal ranks are ties, and a rank counts the tiers above it."""
        draw = random.Random(f"annotator {self.seed} {prompt_id}")
        score = dict(zip(answers, scores, strict=True))
        utility = {answer: self._utility(value, _open(draw)) for answer, value in score.items()}
        order = sorted(score, key=lambda answer: -utility[answer])
        tier = dict.fromkeys(order[:1], 1)
        for better, worse in itertools.pairwise(order):
            alike = abs(score[better] - score[worse]) <= self.tie_margin and draw.random() < self.tie_share
            tier[worse] = tier[better] + (0 if alike else 1)
        return [tier[answer] for answer in answers]

    def _utility(self, score: float, uniform: float) -> float:
        return score / self.scale - math.log(-math.log(uniform)) if self.scale else score


def _open(draw: random.Random) -> float:
    """A uniform number in the open interval (0, 1)."""
    return max(draw.random(), 1e-300)


def annotate(
    ledger: Ledger,
    names: Sequence[str],
    annotator: Annotator,
    scores: Mapping[str, Mapping[str, float]],
    enough: Callable[[], bool],
) -> int:
    """How many items the annotators of these names said something of, until it is `enough` or they are handed none.

    `scores`: for each item that of each text among its answers; an answer without one is not ranked, and an item with
    fewer than two is skipped. Whoever has said least so far is next, so that annotators that were stopped in the middle
    go on to the same rankings.
    """
    done = 0
    idle: set[str] = set()
    while len(idle) < len(names):
        with ledger.transaction():
            if enough():
                return done
            name = min((each for each in names if each not in idle), key=lambda each: _said_by(ledger, each))
            shown = next_item(ledger, name)["item"]
            if shown is None:
                idle.add(name)
                continue
            say(ledger, name, _opinion(ledger, name, cast("Told", shown), annotator, scores))
            done += 1
    return done


def _said_by(ledger: Ledger, name: str) -> int:
    return len(ledger.standing.history(name))


def _opinion(
    ledger: Ledger, name: str, shown: Told, annotator: Annotator, scores: Mapping[str, Mapping[str, float]]
) -> Asked:
    """What an annotator says of an item as it is shown; on an item that came back the noise is drawn anew."""
    item = str(shown["id"])
    before = sum(said.item == item for said in ledger.standing.history(name))
    key = sha256(f"{name} {item} {before}".encode()).hexdigest()
    known = scores.get(item, {})
    answers = [cast("Mapping[str, str]", each) for each in cast("Sequence[object]", shown["answers"])]
    scored = [(each["key"], each["text"]) for each in answers if each["text"] in known]
    if len(scored) < 2:
        return Asked(item=item, kind="skip", key=key)
    # In the order of the texts, so that the draws do not depend on the order in which they are shown.
    texts = sorted({text for _, text in scored})
    ranks = annotator.rank(f"{name} {item} {before}", texts, [known[text] for text in texts])
    rank_of = dict(zip(texts, ranks, strict=True))
    tiers = [tuple(letter for letter, text in scored if rank_of[text] == tier) for tier in sorted(set(ranks))]
    return Asked(item=item, kind="rank", key=key, tiers=tuple(tiers))
