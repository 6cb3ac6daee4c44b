"""What a run would make of data files: their format and errors, lengths, template, and which tokens are trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from posttrain.config import CheckConfig, DataItem
from posttrain.config.automatic import held_out_share, share
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.classes import task_of
from posttrain.data.labels import one_label
from posttrain.data.readers import Reading, open_data
from posttrain.data.split import prompt_key
from posttrain.errors import DataError, Problem
from posttrain.recipes.check_page import page
from posttrain.recipes.checked import Checked, CheckedFile, Shown
from posttrain.recipes.survey import Survey
from posttrain.run import check_file_out
from posttrain.text.diagnosis import Diagnosis
from posttrain.text.pieces import Piece
from posttrain.types import (
    ChatRecord,
    Kind,
    LabelledRecord,
    Message,
    PrefixGroup,
    PromptRecord,
    RankedRecord,
    Record,
    TargetRecord,
    TextRecord,
)

if TYPE_CHECKING:
    from posttrain.recipes.examine import Words

# Labelled answers first: without their labels they would be conversations to imitate, the bad ones too. So are texts.
_KINDS: tuple[Kind, ...] = ("labelled", "target", "chat", "text", "ranked", "prompt")
_TAKEN_BY: dict[Kind, tuple[str, ...]] = {
    "chat": ("sft",),
    "text": ("sft",),
    "ranked": ("reward", "dpo"),
    "labelled": ("dpo --loss kto",),
    "target": ("classify",),
    "prompt": ("ppo", "online-dpo", "sample"),
}
_CHUNK = 512


def check(config: CheckConfig, *, console: Console) -> Checked:
    """What is in every file of `data`, drawn as a page as well; nothing is trained and nothing is written but `out`.

    All rows are read and, with a model, tokenised; memory does not grow with them. What a run would refuse is in the
    result, with `trainable` False. Raises DataError for what cannot be read as data at all, ModelError, and
    RunExists where `out` is a file already.
    """
    if config.out is not None:
        check_file_out(config.out, [*(item.path for item in config.data), config.eval_data or ""])
    words = _open_words(config)
    held = _held(config, console)
    files: list[CheckedFile] = []
    names = Counter(Path(item.path).name for item in config.data)
    for item in config.data:
        files.append(_Pass(config, item, words, held, console).checked())
        name = item.path if names[Path(item.path).name] > 1 else ""
        console.page(page(files[-1], words=words is not None, name=name))
    if config.out is not None:
        _write(Path(config.out), [problem for file in files for problem in (*file.problems, *file.refusals)])
    return Checked(files=tuple(files), trainable=all(file.trainable for file in files))


def _open_words(config: CheckConfig) -> Words | None:
    """The model's tokenizer and template; `transformers` is imported only where there is a model."""
    if config.model is None:
        return None
    return cast("Words", import_module("posttrain.recipes.examine").open_words(config.model, config))


def _held(config: CheckConfig, console: Console) -> frozenset[int]:
    """The keys of the prompts in `eval_data`; none where it is a share of the data, which is split by prompt."""
    if config.eval_data is None:
        return frozenset()
    if held_out_share(config.eval_data) is not None:
        console.say(f"eval_data {config.eval_data}: a share is split off by prompt, so nothing of it can leak")
        return frozenset()
    return frozenset(
        prompt_key(record) for record in open_data(config.eval_data, _KINDS, max_bad=share(config.max_bad))
    )


class _Pass:
    """One pass over a file: its rows in pieces through the survey and, with a model, the doctor."""

    def __init__(
        self, config: CheckConfig, item: DataItem, words: Words | None, held: frozenset[int], console: Console
    ) -> None:
        self._config = config
        self._words = words
        self._console = console
        # The pass goes to its end whatever the share of bad rows; whether that is too many is told after it.
        self._reading = open_data(
            item.path, _KINDS, max_bad=1.0, columns=item.columns, subset=item.subset, split=item.split
        )
        self._held = held
        self._survey = Survey(limit=words.limit if words else None, held=held)
        self._doctor = words.examination() if words else None
        self._shown: list[Shown] = []
        self._refusals: list[Problem] = []

    def checked(self) -> CheckedFile:
        """What was found, once all rows are seen."""
        for records in self._pieces():
            groups = self._doctor.see(records) if self._doctor else None
            first = self._survey.records
            self._survey.see(records, groups)
            for place, record in enumerate(records[: max(self._config.rows - first, 0)]):
                self._shown += self._show(first + place + 1, record, groups[place] if groups is not None else None)
            self._say_progress()
        diagnosis = self._doctor.diagnosis() if self._doctor else None
        return self._report(diagnosis)

    def _pieces(self) -> Iterator[list[Record]]:
        """The records in pieces; what ends the pass is kept as a refusal."""
        piece: list[Record] = []
        try:
            for record in self._reading:
                piece.append(record)
                if len(piece) == _CHUNK:
                    yield piece
                    piece = []
        except DataError as error:
            # That no row is good is told with the counts. All else ended the pass before its end: a damaged file.
            if self._reading.tally.bad < self._reading.tally.rows:
                self._refusals += error.problems
        if piece:
            yield piece

    def _say_progress(self) -> None:
        verb = "tokenising" if self._words else "reading"
        self._console.working(f"{verb} {self._reading.path}: {self._survey.records:,} records")

    def _show(self, number: int, record: Record, groups: Sequence[PrefixGroup] | None) -> Iterator[Shown]:
        if self._words is None:
            yield Shown(id=record.id, title=f"row {number}", pieces=tuple(_spoken(record)))
        elif groups:
            yield from self._words.shown(number, record, groups)

    def _report(self, diagnosis: Diagnosis | None) -> CheckedFile:
        reading, survey, tally = self._reading, self._survey, self._reading.tally
        refusals = (
            *self._refusals,
            *_too_many_bad(reading, share(self._config.max_bad)),
            *self._of_lengths(),
            *self._of_labels(),
        )
        refusals = (*refusals, *(diagnosis.problems if diagnosis else ()))
        targets, of_targets = self._of_targets()
        refusals = (*refusals, *of_targets)
        kind = reading.kind
        return CheckedFile(
            path=str(reading.path),
            format=reading.format,
            kind=kind,
            commands=_TAKEN_BY[kind],
            prompts_for=_TAKEN_BY["prompt"] if kind in ("chat", "ranked", "labelled") else (),
            size=reading.size,
            rows=tally.rows,
            records=survey.records,
            ok=tally.rows - tally.bad - tally.duplicates,
            bad=tally.bad,
            duplicates=tally.duplicates,
            problems=tuple(tally.problems),
            lengths=survey.lengths,
            limit=self._words.limit if self._words else None,
            overlong=survey.overlong if self._words and self._words.limit else None,
            trained_share=survey.trained_share if kind in ("chat", "text") else None,
            diagnosis=diagnosis,
            rankings=survey.rankings if kind == "ranked" else None,
            labels=survey.labels if kind == "labelled" else None,
            targets=targets,
            columns=dict(survey.columns),
            leakage=survey.leakage(self._config.eval_data or "") if self._held else None,
            shown=tuple(self._shown),
            refusals=refusals,
            trainable=not refusals,
        )

    def _of_labels(self) -> Iterator[Problem]:
        """Labels that all say the same teach nothing."""
        labels = self._survey.labels
        if self._reading.kind == "labelled" and self._survey.records and not (labels.good and labels.bad):
            one = one_label(labels.good, labels.bad)
            yield Problem(place=str(self._reading.path), what=one.what, fix=one.fix)

    def _of_targets(self) -> tuple[str | None, Sequence[Problem]]:
        """What the labels make, or why no head could be trained on them."""
        if not self._survey.targets.counts:
            return None, ()
        try:
            return task_of("auto", self._survey.targets)[1].removeprefix("task "), ()
        except DataError as error:
            return None, error.problems

    def _of_lengths(self) -> Iterator[Problem]:
        """What no run could train or answer, because of its length."""
        survey, words, path = self._survey, self._words, str(self._reading.path)
        if words is None or not survey.overlong:
            return
        if self._reading.kind == "prompt":
            what = (
                f"{counted(survey.overlong, 'prompt', 'leave')} no room for an answer within max_length {words.limit}"
            )
            yield Problem(place=path, what=what, fix="shorten or remove them, or use a model with a longer context")
        elif survey.overlong == survey.records:
            what = f"every row is longer than max_length {words.limit}: nothing would be left to train on"
            yield Problem(place=path, what=what, fix="raise max_length, or cut the rows")


def _too_many_bad(reading: Reading, allowed: float) -> Iterator[Problem]:
    tally = reading.tally
    if tally.bad > allowed * tally.rows or tally.bad == tally.rows:
        what = f"{tally.bad:,} of {counted(tally.rows, 'row')} cannot be used ({tally.bad / max(tally.rows, 1):.0%})"
        fix = f"mend them; at most {allowed:.0%} may be bad (max_bad)"
        yield Problem(place=str(reading.path), what=what, fix=fix)


def _write(path: Path, problems: Sequence[Problem]) -> None:
    """One problem a line, in the form of a run's problems.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
    path.write_text("".join(lines), encoding="utf-8")


def _spoken(record: Record) -> Iterator[Piece]:
    """A record without any template: who speaks, what is said, and what is to be trained of it."""
    match record:
        case TextRecord():
            yield _piece(record.text, trained=True)
        case ChatRecord():
            yield from _turns(record.messages)
        case RankedRecord():
            yield from _turns(record.prompt)
            for rank, response in zip(record.ranks, record.responses, strict=True):
                yield _piece("no rank: " if rank is None else f"rank {rank}: ", special=True)
                yield _piece(response, trained=True)
                yield _piece("\n")
        case LabelledRecord():
            yield from _turns(record.prompt)
            for good, response in zip(record.labels, record.responses, strict=True):
                yield _piece("good: " if good else "bad: ", special=True)
                yield _piece(response, trained=True)
                yield _piece("\n")
        case TargetRecord():
            yield from _spoken(record.asked)
            yield _piece(f" → {record.label}", trained=True)
        case PromptRecord():
            yield from _turns(record.messages or ())
            yield _piece(record.text or "")


def _turns(messages: Sequence[Message]) -> Iterator[Piece]:
    for message in messages:
        yield _piece(f"{message.role}: ", special=True)
        yield _piece(message.content, trained=message.role == "assistant" and message.train is not False)
        yield _piece("\n")


def _piece(text: str, *, trained: bool = False, special: bool = False) -> Piece:
    return Piece(tokens=(), text=text, trained=trained, special=special)
