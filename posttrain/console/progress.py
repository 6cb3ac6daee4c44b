"""How far a run is, in the words and numbers that every view shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]

# The metric that is told first, and those beside it, as far as a run has them; the names are those of metrics.jsonl.
_FIRST = ("score", "loss")
# Those whose course a panel draws, and the losses that it tells besides.
_DRAWN = ("score", "loss", "kl", "actor_loss", "critic_loss")
_LOSSES = (("loss", "loss"), ("actor_loss", "actor loss"), ("critic_loss", "critic loss"))
_BESIDE = (
    ("eval_loss", "eval"),
    ("eval_accuracy", "eval accuracy"),
    ("eval_macro_f1", "macro f1"),
    ("eval_spearman", "spearman"),
    ("eval_pearson", "pearson"),
    ("eval_exact_match", "exact match"),
    ("eval_token_f1", "token f1"),
    ("eval_bleu", "bleu"),
    ("eval_chrf", "chrf"),
    ("eval_rouge1", "rouge-1"),
    ("eval_rouge2", "rouge-2"),
    ("eval_rougeL", "rouge-L"),
    ("accuracy", "accuracy"),
    ("margin", "margin"),
    ("kl", "kl"),
    ("entropy", "entropy"),
    ("clip_fraction", "clipped"),
    ("length", "length"),
    ("stopped", "stopped"),
    ("grad_norm", "grad"),
    ("learning_rate", "lr"),
)
_BARS = "▁▂▃▄▅▆▇█"
_MEANS = 256


@dataclass(slots=True)
class Course:
    """A metric over a run as means of equally many values each, fewer than `2 * _MEANS` of them however long it is."""

    means: list[float] = field(default_factory=list[float])
    each: int = 1
    _held: list[float] = field(default_factory=list[float])

    def add(self, value: float) -> None:
        """Takes in the next value; one that is not finite is passed over."""
        if not math.isfinite(value):
            return
        self._held.append(value)
        if len(self._held) == self.each:
            self.means.append(sum(self._held) / self.each)
            self._held.clear()
        if len(self.means) == 2 * _MEANS:
            self.means = [(self.means[at] + self.means[at + 1]) / 2 for at in range(0, 2 * _MEANS, 2)]
            self.each *= 2

    @property
    def drawn(self) -> str:
        """In at most 16 bars, the newest value in the last of them."""
        return sparkline([*self.means, *([sum(self._held) / len(self._held)] if self._held else [])])


@dataclass(slots=True)
class Progress:
    """How far a run is: the numbers that both the panel and the plain lines show. `earlier` steps were done before.

    `ends`: when each step of this process ended.
    """

    title: str
    steps: int
    where: str
    clock: Clock
    step: int = 0
    tokens: float = 0.0
    courses: dict[str, Course] = field(default_factory=dict[str, Course])
    first: dict[str, float] = field(default_factory=dict[str, float])
    latest: dict[str, float] = field(default_factory=dict[str, float])
    news: tuple[str, ...] = ()
    again: bool = False
    earlier: int = 0
    began: float = 0.0
    ends: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        self.began = self.clock()

    def advance(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a step. A second call for the same step (an evaluation after it) adds to the first."""
        self.again = step == self.step
        self.step = step
        if self.again and self.ends:
            self.ends.pop()
        self.ends.append(self.clock())
        self.news = tuple(metrics)
        self.tokens += metrics.get("tokens", 0.0)
        self.latest.update(metrics)
        for name, value in metrics.items():
            self.first.setdefault(name, value)
        for name in _DRAWN:
            if name in metrics:
                self.courses.setdefault(name, Course()).add(metrics[name])

    @property
    def name(self) -> str:
        """The metric that is told first."""
        return next((name for name in _FIRST if name in self.latest), "loss")

    @property
    def pace(self) -> str:
        """`3.4 it/s · 21.7 k tok/s · 4:24 left (done 14:07)`; what is not known yet is left out."""
        seconds = self.ends[-1] - self.began if self.ends else 0.0
        if self.step == self.earlier or seconds <= 0:
            return ""
        rate = (self.step - self.earlier) / seconds
        parts = [f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"]
        if self.tokens:
            parts.append(f"{_thousands(self.tokens / seconds)} tok/s")
        if self.step < self.steps:
            left = timedelta(seconds=round(self.left))
            parts.append(f"{_duration(left.seconds + 86400 * left.days)} left (done {datetime.now() + left:%H:%M})")
        return " · ".join(parts)

    @property
    def left(self) -> float:
        """Seconds to the end at the pace of the later half of the steps: the first ones may be faster or slower.

        Evaluations, samples and saving are part of the pace. 0 before the first step.
        """
        if not self.ends:
            return 0.0
        half = len(self.ends) // 2
        since = self.ends[half - 1] if half else self.began
        return (self.ends[-1] - since) / (len(self.ends) - half) * (self.steps - self.step)

    @property
    def numbers(self) -> str:
        """The latest metrics: the one that is told first, and those beside it."""
        return self._shown(self.latest)

    @property
    def curves(self) -> Sequence[str]:
        """The same with their course so far, `score 1.045 ▁▂▄▆▇█   kl 0.711 ▁▁▂▃▅▇`, and a line of the losses."""
        losses = [
            f"{shown} {number(self.latest[name])}{self._course(name)}"
            for name, shown in _LOSSES
            if name in self.latest and name != self.name
        ]
        return [self._shown(self.latest, curves=True), *(["   ".join(losses)] if losses else [])]

    @property
    def latest_news(self) -> str:
        """The metrics of the last call alone."""
        return self._shown(self.news)

    def _shown(self, names: Container[str], *, curves: bool = False) -> str:
        parts: list[str] = []
        for name, shown in ((self.name, self.name), *_BESIDE):
            if name in names:
                # The first one comes after some steps; of a run that goes on it is not known here.
                first = f" (first {number(self.first[name])})" if name.startswith("eval") and not self.earlier else ""
                course = self._course(name) if curves else ""
                parts.append(f"{shown} {number(self.latest[name])}{course}{first}")
        return "   ".join(parts)

    def _course(self, name: str) -> str:
        return f" {self.courses[name].drawn}" if name in self.courses else ""


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The course of `values` in at most `width` bars, each the mean of its part; low is the lowest value shown."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, spread = min(means), max(means) - min(means)
    places = [round((mean - low) / spread * (len(_BARS) - 1)) if spread else 0 for mean in means]
    return "".join(_BARS[place] for place in places)


def number(value: float) -> str:
    """A number for reading: three digits after the point; small and large ones with three digits in all."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+")


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f} k" if value >= 1000 else f"{value:.0f}"


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
