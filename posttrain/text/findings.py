"""What was counted in rows, said in plain words: each finding with its verdict and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from posttrain.counted import counted
from posttrain.text.chat import Codec
from posttrain.text.diagnosis import Fact, Verdict

_TOLERATED = 0.05
"""The share of rows with doubled special tokens from which the data are taken for text that is rendered already."""


@dataclass(slots=True)
class Findings:
    """Counts by name, the first row of each, why the template refused one, and a control token that a row spells."""

    counts: Counter[str] = field(default_factory=Counter[str])
    first: dict[str, str] = field(default_factory=dict[str, str])
    why: str = ""
    spelling: str = ""

    def add(self, name: str, place: str, count: int = 1) -> None:
        """Counts a finding of the row at `place`; nothing when `count` is 0."""
        if count:
            self.counts[name] += count
            self.first.setdefault(name, place)


def row_facts(found: Findings, codec: Codec, *, cut: int | None) -> Iterator[Fact]:
    """A fact for everything that was found, what stops a run first. `cut`: tokens kept of a conversation, or None."""
    counts = found.counts
    if counts["turns"]:
        yield _of_ends(found, codec.dress.ending, cut)
        if counts["prefixes"] and not (counts["rewritten"] or counts["other prompt"]):
            yield Fact(name="prefix", verdict="ok", what="generation prompt is a prefix")
    for name, (what, fix) in _SAYINGS.items():
        if counts[name]:
            said = what.format(
                rows=counted(counts[name], "row"),
                answers=counted(counts[name], "answer"),
                why=found.why,
                spelling=found.spelling,
                samples=f"{counts['extra samples']:,}",
                share=f"{counts['unknown tokens'] / max(counts['tokens'], 1):.2%}",
            )
            yield Fact(
                name=name,
                verdict=_verdict(name, counts),
                what=said,
                fix=fix,
                rows=counts[name],
                place=found.first[name],
            )


def _of_ends(found: Findings, ending: str, cut: int | None) -> Fact:
    """Whether the end of turn is trained, on every turn that is."""
    turns, ended = found.counts["turns"], found.counts["ended turns"]
    if ended == turns:
        return Fact(
            name="end trained", verdict="ok", what=f"end-of-turn {ending} is trained ({counted(turns, 'turn')})"
        )
    fix = "raise max_length, or set overlong to drop"
    if cut is None:
        fix = "take a template that writes it (template: plain), or set loss_on to assistant"
    what = f"end-of-turn {ending} is trained on {ended:,} of {counted(turns, 'turn')} only"
    if not ended:
        what = f"end-of-turn {ending} is never trained: the model would not learn to stop"
    return Fact(
        name="end trained",
        verdict="note" if ended else "refuse",
        what=what,
        fix=fix,
        rows=turns - ended,
        place=found.first.get("unended", ""),
    )


def _verdict(name: str, counts: Counter[str]) -> Verdict:
    share = counts[name] / max(counts["rows"], 1)
    if name in ("refused", "untrained"):
        return "refuse"
    if name == "doubled":
        return "refuse" if share > _TOLERATED else "note"
    return "refuse" if name in ("silent", "cut away") and share == 1 else "note"


_ESCAPE = "take the control tokens out of the data: the template writes them"
_SAYINGS = {
    "refused": ("{why} ({rows})", "change the roles of these rows, or take another template (template: plain)"),
    "untrained": ("{rows} would train nothing: the template writes nothing of them", "take another template"),
    "doubled": ("{rows} would have a special token twice in a row", _ESCAPE),
    "silent": (
        'nothing is trained of {rows}, where every answer says "train": false',
        'take "train": false from one of them',
    ),
    "cut away": ("nothing is trained of {rows} once cut", "raise max_length, or set overlong to drop"),
    "rewritten": (
        "history reads otherwise than generation saw it in {rows}: "
        "each trained turn is a sample of its own (+{samples})",
        "nothing to mend: the template rewrites earlier turns",
    ),
    "other prompt": (
        "generation begins answers otherwise than the template writes them in {rows}",
        "nothing to mend: they are trained as generation sees them",
    ),
    "system dropped": (
        "the template drops the system message of {rows}",
        "put it into the first message of the user, or take another template",
    ),
    "rewritten texts": (
        "the template leaves out or rewrites text in {rows}",
        "nothing to mend where earlier thoughts are dropped on purpose; else take another template",
    ),
    "trimmed": ("the template trims spaces around the texts of {rows}", "nothing to mend, unless they matter"),
    "bare": ("an answer is nothing but the end of turn in {rows}", "fill in or remove empty answers"),
    "same answers": ("answers of one prompt are the same in tokens in {rows}", "remove one of them"),
    "spelt": ("control tokens such as {spelling} are spelt in {rows}, and act as such there", _ESCAPE),
    "breaks": (
        "the tokens of {answers} decode to another text than was given",
        "compare them; control tokens are the usual cause",
    ),
    "unknown": (
        "{share} of the tokens are unknown to the vocabulary, in {rows}",
        "clean the text, or take a model that knows its characters",
    ),
    "cut answers": ("no end of turn is put after {answers} that did not end by themselves", "nothing to mend"),
}
