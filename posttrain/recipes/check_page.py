"""The page of `check`: one file's facts in the lines that people read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from posttrain.console.page import Bit, Line, Tone, bars, line, visible
from posttrain.counted import counted
from posttrain.data.readers import folded
from posttrain.recipes.checked import CheckedFile, Labels, Leakage, Lengths, Rankings, Shown
from posttrain.text.diagnosis import Diagnosis, Fact
from posttrain.text.pieces import Piece

_PROBLEMS = 5
_TOKENS = 240
_HEAD, _TAIL = 120, 60
_COLUMNS = 12
_LONGER = 0.6
"""The share of pairs won by the longer answer from which a reward model would learn to like length."""


def page(found: CheckedFile, *, words: bool, name: str = "") -> list[Line]:
    """The lines for one file, under `name` or that of its path; without `words` (a tokenizer) those that need none."""
    return [
        *_of_file(found, name or Path(found.path).name or found.path),
        *_of_problems(found),
        *_of_lengths(found.lengths, found.trained_share),
        *(_of_rankings(found.rankings, words=words) if found.rankings else ()),
        *(_of_labels(found.labels) if found.labels else ()),
        *([line("labels", found.targets)] if found.targets else ()),
        *_of_columns(found),
        *(_of_template(found.diagnosis) if found.diagnosis else ()),
        *(_of_leakage(found.leakage, found) if found.leakage else ()),
        *_of_rows(found.shown),
        *_of_verdict(found),
        *([] if words else [line("", ("give --model to see tokens, lengths in tokens, mask and template", "dim"))]),
    ]


def _of_file(found: CheckedFile, title: str) -> Iterator[Line]:
    size = "" if found.size is None else f" · {_bytes(found.size)}"
    yield Line(
        bits=(
            (title, "strong"),
            (f"   {counted(found.rows, 'row')}{size} · format: {found.format}", "plain"),
        )
    )
    bits: list[Bit] = [(f"  ok {found.ok:,}   ", "plain")]
    bits.append((f"bad {found.bad:,}", "bad" if found.bad else "plain"))
    bits.append((f"   duplicates {found.duplicates:,}", "plain"))
    if found.overlong is not None:
        bits.append((f"   overlong (>{found.limit}) {found.overlong:,}", "plain"))
    if found.records != found.ok:
        bits.append((f"   in all {counted(found.records, 'sample')}", "plain"))
    yield Line(bits=tuple(bits))


def _of_problems(found: CheckedFile) -> Iterator[Line]:
    """The first of each kind of problem, five at most."""
    kinds = folded(found.problems)
    places = [problem.place for problem in kinds[:_PROBLEMS]]
    width = max((len(_short(place)) for place in places), default=0)
    for number, problem in enumerate(kinds[:_PROBLEMS]):
        head = "  bad  " if not number else "       "
        yield line("", (head, "bad"), f"{_short(problem.place).ljust(width)}  {problem.what}")
        if problem.fix:
            yield line("", (f"       {' ' * width}  fix: {problem.fix}", "dim"))
    if len(kinds) > _PROBLEMS:
        yield line("", (f"       and more of other kinds ({len(kinds) - _PROBLEMS:,}); --out FILE writes all", "dim"))


def _of_lengths(lengths: Lengths | None, trained: float | None) -> Iterator[Line]:
    if lengths is None:
        return
    share = "" if trained is None else f"   trained share {trained:.0%}"
    said = f"p50 {lengths.p50:,} · p95 {lengths.p95:,} · max {lengths.longest:,}   "
    total = f"   {lengths.total:,} in all"
    yield line(f"lengths ({lengths.unit})", said, (bars(lengths.histogram), "good"), total, share)


def _of_rankings(found: Rankings, *, words: bool) -> Iterator[Line]:
    answers = ", ".join(f"{count:,} × {size}" for size, count in list(found.answers.items())[:_COLUMNS])
    said = f"{counted(found.prompts, 'prompt')} · answers {answers} · "
    said += f"{counted(found.pairs, 'pair')} · {counted(found.ties, 'tie')}"
    extra = {"answer not ranked": found.unranked, "margin": found.margins, "weight": found.weights}
    said += "".join(f" · {counted(count, name)}" for name, count in extra.items() if count)
    said += f" · {counted(found.annotators, 'annotator')}" if found.annotators else ""
    yield line("rankings", said)
    if found.longer_wins is None:
        return
    unit = "tokens" if words else "characters"
    means = f"better {found.better:,.0f} {unit} on average, worse {found.worse:,.0f}"
    biased = found.longer_wins > _LONGER
    verdict: Bit = (
        f"the longer answer is the better one in {found.longer_wins:.0%} of pairs",
        "bad" if biased else "plain",
    )
    hint = ": a reward learns to like length from this" if biased else ""
    yield line("length", f"{means} · ", verdict, hint)


def _of_labels(found: Labels) -> Iterator[Line]:
    yield line("labels", f"{counted(found.good + found.bad, 'answer')} · good {found.good:,} · bad {found.bad:,}")


def _of_columns(found: CheckedFile) -> Iterator[Line]:
    if found.kind != "prompt":
        return
    names = [f"{name} ({count:,})" if count < found.records else name for name, count in found.columns.items()]
    more = f" and {len(names) - _COLUMNS} more" if len(names) > _COLUMNS else ""
    yield line("kept", (", ".join(names[:_COLUMNS]) or "no other columns") + more)
    if found.limit is not None and found.lengths is not None:
        room = max(found.limit - found.lengths.longest, 0)
        yield line(
            "room",
            f"for answers of up to {counted(room, 'token')} after the longest prompt (max_length {found.limit:,})",
        )


def _of_template(found: Diagnosis) -> Iterator[Line]:
    """The facts that are as they should be on one line, each of the others on its own with its fix."""
    bits: list[Bit] = [("the model's own" if found.template == "tokenizer" else found.template, "plain")]
    for fact in found.facts:
        if fact.verdict == "ok":
            bits.append((f" · {_said(fact)} ", "plain"))
            bits.append(("✓", "good"))
    yield Line(label="template", bits=tuple(bits))
    for fact in (*found.refusals, *found.notes):
        sign: Bit = ("✗ ", "bad") if fact.verdict == "refuse" else ("! ", "strong")
        first = f"   first: {_short(fact.place)}" if fact.place else ""
        yield line(" ", sign, _said(fact), (first, "dim"))
        if fact.fix and not fact.fix.startswith("nothing to mend"):
            yield line(" ", (f"  fix: {fact.fix}", "dim"))


def _said(fact: Fact) -> str:
    return visible(fact.what)


def _of_leakage(found: Leakage, file: CheckedFile) -> Iterator[Line]:
    name = Path(found.eval_data).name
    if not found.rows:
        yield line("leakage", f"of {counted(found.prompts, 'prompt')} of {name} none is in it ", ("✓", "good"))
        return
    first = ", ".join(map(_short, found.places))
    more = " …" if found.rows > len(found.places) else ""
    have = "has" if found.rows == 1 else "have"
    said = f"{found.rows:,} of {counted(file.records, 'row')} {have} a prompt that is in {name} too: {first}{more}"
    yield line("leakage", ("✗ ", "bad"), said)
    yield line(" ", ("  fix: take them out of one of the two, or what is measured there is memory", "dim"))


# --- rows -------------------------------------------------------------------------------------------------------


def _of_rows(shown: Sequence[Shown]) -> Iterator[Line]:
    for row in shown:
        yield Line(label=row.title, bits=tuple(_bits(row.pieces)))
    if any(piece.trained for row in shown for piece in row.pieces):
        yield line(" ", ("in the loss: ", "dim"), ("like this", "trained"))


def _bits(given: Sequence[Piece]) -> Iterator[Bit]:
    """The pieces in their tones; the middle of a long stretch of one mask is left out, and counted."""
    for _, stretch in groupby(given, key=lambda piece: piece.trained):
        run = list(stretch)
        if len(run) <= _TOKENS:
            yield from map(_bit, run)
            continue
        hidden = run[_HEAD:-_TAIL]
        yield from map(_bit, run[:_HEAD])
        count = sum(len(piece.tokens) for piece in hidden)
        yield f" … {count:,} tokens … ", "trained" if run[0].trained else "dim"
        yield from map(_bit, run[-_TAIL:])


def _bit(piece: Piece) -> Bit:
    text = visible(piece.text)
    if not piece.tokens and len(text) > _TOKENS * 4:
        text = f"{text[: _HEAD * 4]} … {len(text) - (_HEAD + _TAIL) * 4:,} characters … {text[-_TAIL * 4 :]}"
    tone: Tone = "trained control" if piece.special else "trained"
    if not piece.trained:
        tone = "control" if piece.special else "token"
    return text, tone


def _of_verdict(found: CheckedFile) -> Iterator[Line]:
    commands = _joined(found.commands)
    if found.trainable:
        more = f", and {_joined(found.prompts_for)} its prompts" if found.prompts_for else ""
        take = "takes" if len(found.commands) == 1 else "take"
        yield line("verdict", ("✓ ", "good"), f"{commands} {take} this file{more}")
        return
    yield line("verdict", ("✗ ", "bad"), (f"{commands} would refuse this file:", "strong"))
    for problem in found.refusals:
        yield line(
            " ", ("✗ ", "bad"), "  ".join(part for part in (_short(problem.place), visible(problem.what)) if part)
        )
        if problem.fix:
            yield line(" ", (f"  fix: {problem.fix}", "dim"))


def _joined(names: Sequence[str]) -> str:
    """`ppo, online-dpo and sample`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _short(place: str) -> str:
    """A place without the folders before the file's name."""
    return place.rpartition("/")[2]


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
