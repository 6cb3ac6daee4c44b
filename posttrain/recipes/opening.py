"""How every training command begins: what can fail fails in seconds, cheapest first, before anything is written.

The order: settings and folder, then model and files all at once, template and mask, disk, and last all rows. Only then
is an earlier run cleared away, and a model loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

from safetensors import SafetensorError
from transformers import PretrainedConfig

from posttrain.config import DataItem, Lora, RewardConfig, SFTConfig, Training, dump
from posttrain.config.automatic import held_out_share, resolved, share
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.engine.sealed import steps_in
from posttrain.errors import (
    ConfigError,
    DataError,
    DoesNotFit,
    ModelError,
    PosttrainError,
    Problem,
    disk_is_full,
    why_full,
)
from posttrain.models.adapter_files import is_dora
from posttrain.models.load import context_length, is_adapter
from posttrain.models.targets import check_targets, layers_of
from posttrain.recipes import setup
from posttrain.recipes.disk import check_disk
from posttrain.recipes.machine import check_machine, same_bits
from posttrain.recipes.preflight import Rehearsed
from posttrain.recipes.rows import Source, open_sources
from posttrain.recipes.scoring import check_policy
from posttrain.recipes.weights import check_weights
from posttrain.run import Run, RunWriter, check_out, tidy
from posttrain.text.chat import Codec
from posttrain.text.diagnosis import refuse
from posttrain.text.doctor import diagnose
from posttrain.types import Kind

DataT = TypeVar("DataT")
Found = TypeVar("Found")
EXAMINED = 200
"""Rows of each source that the doctor looks at before all of them are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The files of a run. `held_out` is a share of the data or a file; `aside` is read besides, for its own use."""

    data: Sequence[DataItem]
    kinds: tuple[Kind, ...]
    held_out: str | None = None
    aside: Sequence[DataItem] | str | None = None
    aside_kinds: tuple[Kind, ...] = ("chat",)

    @property
    def eval_file(self) -> str | None:
        """The file of `held_out`; None where it is a share."""
        return self.held_out if held_out_share(self.held_out) is None else None

    @property
    def paths(self) -> list[str]:
        """Every path, whether it exists or not."""
        aside = [self.aside] if isinstance(self.aside, str) else [item.path for item in self.aside or ()]
        return [*(item.path for item in self.data), *([self.eval_file] if self.eval_file else []), *aside]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What a run knows before it reads all rows. `limit`: the longest sequence in tokens; `embedding`: ids that
    the model knows.

    `held`: the rows of an `eval_data` file, none where it is a share. `aside`: those read besides. What the
    run folder shall say of the rows is put into `problems` and `counts` as they are read.
    """

    data: list[Source]
    held: list[Source]
    aside: list[Source]
    codec: Codec
    limit: int
    embedding: int
    console: Console
    problems: list[Problem] = field(default_factory=list[Problem])
    counts: dict[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Generic[DataT]):
    """What a run has before its model is loaded: its data as `read` gave them."""

    data: DataT
    codec: Codec
    limit: int
    run: setup.Telling


def training(
    config: Training,
    reads: Reads,
    read: Callable[[Door], DataT],
    train: Callable[[Opened[DataT]], Run],
    *,
    console: Console,
    fresh: bool,
    dry_run: bool = False,
    lineage: Mapping[str, str] | None = None,
) -> Run:
    """Runs `train` inside the run folder of `config`, or returns the run that is done already.

    A dry run goes all the way to the first step, writes nothing into `out`, and raises Rehearsed.

    `read` reads every row, and may refuse them. `lineage` names the models besides `model`. Raises RunExists, or what
    is wrong with models and files, with nothing written and an earlier run as it was.
    """
    setup.quiet_libraries()
    console.choices.clear()
    parents = {"model": config.model, **(lineage or {})}
    files = setup.data_paths(reads.paths)
    check_out(config, config.out, fresh=fresh, lineage=parents, data=files)
    earlier = Run(Path(config.out))
    if earlier.exists() and earlier.status == "done" and not fresh:
        return _done(config, console, earlier)
    door = _open(config, reads, console)
    _examine(config, door)
    check_disk(config)
    check_weights(config.model, setup.machine(config).device, config.quantize)
    data = read(door)
    if dry_run:
        _rehearse(config, door, lambda run: train(Opened(data=data, codec=door.codec, limit=door.limit, run=run)))
    hub = {name: source.reading.identity for name, source in _of_the_hub(door)}
    with RunWriter.create(config.out, config, fresh=fresh, lineage=parents, data=files, hub=hub) as writer:
        if writer.finished:
            return _done(config, console, writer.run)
        for source in (*door.data, *door.held, *door.aside):  # what was hashed for the record is what was read
            source.reading.refuse_changes()
        console.attach(writer.log)
        writer.problems(door.problems)
        if door.problems:
            listed = f"{config.out}/run/problems.jsonl"
            console.say(f"what is left out as bad is listed in {listed}; the first: {door.problems[0]}")
        writer.note(**{f"{name}_rows": counts for name, counts in door.counts.items()})
        run = setup.Telling(writer=writer, console=console)
        with _room_for(writer), same_bits(config):
            return train(Opened(data=data, codec=door.codec, limit=door.limit, run=run))


@contextmanager
def _room_for(writer: RunWriter) -> Generator[None]:
    """Raises DoesNotFit in place of whatever says that a disk is full, with what is left of the run."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, PosttrainError) or not disk_is_full(error):
            raise
        newest = next(iter(steps_in(writer.checkpoints)), None)
        left = "it begins again" if newest is None else f"it goes on from the checkpoint of step {newest}"
        place = getattr(error, "filename", None) or writer.path
        fix = f"free some space, then the same command: {left}"
        raise DoesNotFit(f"{place}  cannot be written: {why_full(error)}\n  fix: {fix}") from error


def _of_the_hub(door: Door) -> Iterator[tuple[str, Source]]:
    """The sources that are no local files, by the path that names them."""
    for source in (*door.data, *door.held, *door.aside):
        if source.reading.size is None:
            yield source.reading.path, source


def _rehearse(config: Training, door: Door, train: Callable[[setup.Telling], object]) -> None:
    """Makes the run ready in a folder that is gone afterwards, and shows what it would take. Raises Rehearsed."""
    with TemporaryDirectory() as folder, RunWriter.create(Path(folder) / "run", config) as writer, same_bits(config):
        try:
            train(setup.Telling(writer=writer, console=door.console, dry=True))
        except Rehearsed as end:
            settings = dump(resolved(config, door.console.choices))
            door.console.say(f"dry run: nothing is written to {config.out}; the settings come to\n{settings}")
            door.console.table(end.forecast.table(), title="what this run takes")
            raise


def _done(config: Training, console: Console, run: Run) -> Run:
    tidy(run.path)
    console.say(f"{config.out} is done already; --fresh trains it again")
    return run


def _open(config: Training, reads: Reads, console: Console) -> Door:
    """The model's tokenizer and the sources, opened; what is wrong with any of them is raised together."""
    problems: list[PosttrainError] = []

    def tried(check: Callable[[], Found]) -> Found | None:
        try:
            return check()
        except (ModelError, DataError) as error:
            problems.append(error)
            return None

    max_bad = share(config.max_bad)
    shape = tried(lambda: _shape(config))
    data = tried(lambda: _trainable(open_sources(reads.data, reads.kinds, max_bad=max_bad)))
    held = tried(lambda: open_sources(reads.eval_file, reads.kinds, max_bad=max_bad))
    aside = tried(lambda: _trainable(open_sources(reads.aside, reads.aside_kinds, max_bad=max_bad)))
    if shape is None or data is None or held is None or aside is None:
        raise _together(problems)
    data, held, aside = _told_apart(data, held, aside)
    add = config.add_tokens if isinstance(config, SFTConfig) else ()
    codec = setup.load_codec(config.model, config.template, console, add=add)
    limit = setup.max_length(config.max_length, context_length(shape), console)
    embedding: int = max(shape.get_text_config().vocab_size, 1 + max(codec.words.new, default=0))
    return Door(data=data, held=held, aside=aside, codec=codec, limit=limit, embedding=embedding, console=console)


def _trainable(sources: list[Source]) -> list[Source]:
    """The sources. Raises DataError for rankings that were set apart to check people and models."""
    fix = "take split: audit out; eval takes it: posttrain eval runs/rm --data '{path: feedback.db, split: audit}'"
    audits = [source.reading.path for source in sources if source.reading.audit]
    if audits:
        raise DataError([Problem(place=path, what="the audit items are never trained on", fix=fix) for path in audits])
    return sources


def _told_apart(*groups: Sequence[Source]) -> Iterator[list[Source]]:
    """The sources, with whole paths for names where two would be the same: what is said of each is kept by name."""
    names = Counter(source.name for group in groups for source in group)
    for group in groups:
        yield [replace(each, name=each.reading.path) if names[each.name] > 1 else each for each in group]


def _shape(config: Training) -> PretrainedConfig:
    shape = setup.config_of(config.model)
    check_machine(config)
    if not isinstance(config, RewardConfig):
        check_policy(config.model)
    if config.lora is None and is_adapter(config.model):
        raise ModelError(f"{config.model} is an adapter, and lora is null\n  fix: set lora, for example --lora.rank 32")
    if config.lora is not None:
        _check_lora(config.lora, config.model, shape)
    return shape


def _check_lora(lora: Lora, model: str, shape: PretrainedConfig) -> None:
    """Raises ModelError for names that are no layer of the model, and for an adapter to go on with where there is none.

    The layers are told by the config alone, before any weights are read.
    """
    if lora.start == "continue" and not is_adapter(model):
        fix = "leave lora.start out, for a new adapter"
        raise ModelError(f"lora.start continue: {model} is no adapter that could go on\n  fix: {fix}")
    if lora.start == "continue" and lora.dropout > 0 and is_dora(Path(model)):
        raise ModelError(f"lora.dropout: {model} is a DoRA adapter, where dropout would act on the base too\n  fix: 0")
    named = {
        "lora.targets": () if isinstance(lora.targets, str) else lora.targets,
        "lora.rank_pattern": lora.rank_pattern,
        "lora.alpha_pattern": lora.alpha_pattern,
    }
    if any(named.values()):
        layers = layers_of(shape)
        for setting, names in named.items():
            check_targets(layers, setting, tuple(names or ()))


def _together(errors: Sequence[PosttrainError]) -> PosttrainError:
    """The one error, or all of them as one."""
    if len(errors) == 1:
        return errors[0]
    problems: list[Problem] = []
    for error in errors:
        if isinstance(error, DataError):
            problems += error.problems
        else:
            what, _, fix = str(error).partition("\n  fix: ")
            problems.append(Problem(place="", what=what, fix=fix))
    return ConfigError(problems)


def _examine(config: Training, door: Door) -> None:
    """Has the doctor look at the first rows of every source; says what should be known, refuses what must not be."""
    sources = [*door.data, *door.held, *door.aside]
    records = [record for source in sources for record in islice(source.reading, EXAMINED)]
    loss_on = config.loss_on if isinstance(config, SFTConfig) else "assistant"
    cut = door.limit if isinstance(config, SFTConfig) and config.overlong == "truncate" else None
    diagnosis = diagnose(door.codec, records, loss_on=loss_on, cut=cut, embedding=door.embedding)
    for fact in diagnosis.notes:
        door.console.say(
            f"first {counted(diagnosis.rows, 'row')}: {fact.what}" if fact.rows else f"template: {fact.what}"
        )
    refuse(diagnosis)
