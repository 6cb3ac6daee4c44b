"""The hidden gold score of a story: a friendly one that ends properly and does not repeat itself.

gold = sentiment + ending - repetition. No model that is trained ever sees it: the simulated annotator ranks by it with
noise, and the evaluation measures it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

SENTENCES = 4
"""The median of the reference stories. A shorter story counts as if the missing ones were neutral: one happy sentence
is no happy story."""
REPEATED = 3
_PROPER_END = re.compile(r"[.!?][\"”’']?$")
_SENTENCES = re.compile(r"(?<=[.!?])[\"”’']?\s+")
_WORDS = re.compile(r"[a-z']+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """The parts of a story's score. `sentiment` in [-1, 1], `ending` 0 or 1, `repetition` in [0, 1]."""

    sentiment: float
    ending: float
    repetition: float

    @property
    def total(self) -> float:
        return self.sentiment + self.ending - self.repetition


def gold_of(story: str, *, ended: bool) -> Gold:
    """The gold score of a story. `ended`: the model ended it by itself, before the limit.

    `sentiment` is the mean over at least four sentences of VADER's compound score (Hutto and Gilbert 2014). `ending` is
    1 where the story ended by itself at the end of a sentence. `repetition` is the share of its word trigrams that
    stood in it before.
    """
    return Gold(
        sentiment=sentiment(story),
        ending=float(ended and _PROPER_END.search(story.rstrip()) is not None),
        repetition=1 - distinct_share([story], REPEATED),
    )


def gold(response: str, stopped: bool) -> float:
    """The gold score as a reward: what the simulated annotators of `loop.yaml` rank by."""
    return gold_of(response, ended=stopped).total


def sentiment(story: str) -> float:
    """The mean compound score over the sentences, taken as at least `SENTENCES`, in [-1, 1]; 0 for an empty story."""
    sentences = [part for part in _SENTENCES.split(story.strip()) if part]
    return sum(map(_compound, sentences)) / max(SENTENCES, len(sentences))


def distinct_share(stories: Sequence[str], size: int) -> float:
    """The share of word n-grams of `size` that are different from all others, over all stories; 1 for none."""
    grams = [gram for story in stories for gram in _grams(_WORDS.findall(story.lower()), size)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(size)), strict=False))


def _compound(sentence: str) -> float:
    return _analyzer().polarity_scores(sentence)["compound"]


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()
