"""A head for classes or numbers on a model's backbone: labels in, a sequence classifier out, with its own measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from posttrain import objectives
from posttrain.config import ClassifyConfig
from posttrain.config.automatic import steps_between
from posttrain.config.tasks import other_task
from posttrain.data.classes import Tally, Task, target_batches, target_step, task_of, unknown_labels
from posttrain.data.examples import TargetItem
from posttrain.data.readers import folded
from posttrain.data.source import EpochSource, Weighted
from posttrain.data.tokenise import targets
from posttrain.data.views import Joined
from posttrain.engine.local import ParameterGroup
from posttrain.errors import ConfigError, DataError, ModelError, Problem
from posttrain.measures.labels import HeadOutputs
from posttrain.models.cards import facts_in
from posttrain.models.load import CLASSIFIER_CARD, is_classifier, save_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes import fitting, setup
from posttrain.recipes.keeping import best_of_rows
from posttrain.recipes.load import budget_of, load_of
from posttrain.recipes.mixture import mixture
from posttrain.recipes.opening import Door, Opened, Reads, training
from posttrain.recipes.reward import new_scalar, pad_id
from posttrain.run import Run
from posttrain.types import moved


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierCard:
    """`classifier.json`: what the outputs of a head are: one for each of `labels`, or a number where there are none."""

    task: str
    labels: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Writes the card beside the weights."""
        (folder / CLASSIFIER_CARD).write_text(
            json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @staticmethod
    def read(folder: str) -> ClassifierCard:
        """The card of a classifier's folder. Raises ModelError when there is none."""
        Run(Path(folder)).require_done()
        if not is_classifier(folder):
            raise ModelError(f"{folder} is no classifier\n  fix: train one with `posttrain classify`")
        found = facts_in(Path(folder) / CLASSIFIER_CARD, {"task": str, "labels": list})
        if not all(isinstance(label, str) for label in found["labels"]):
            raise ModelError(f"{Path(folder) / CLASSIFIER_CARD}  labels holds something else than texts")
        return ClassifierCard(task=found["task"], labels=tuple(found["labels"]))


def classify(config: ClassifyConfig, *, console: setup.Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a head and its backbone on labelled rows and writes the run folder."""
    return training(
        config,
        Reads(data=config.data, kinds=("target",), held_out=config.eval_data),
        lambda door: _read(config, door),
        lambda opened: _train(config, opened),
        console=console,
        fresh=fresh,
        dry_run=dry_run,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """The task that all labels together make, and the rows with the targets that it gives them."""

    task: Task
    sets: list[Weighted[TargetItem]]
    held: Sequence[TargetItem]


def _read(config: ClassifyConfig, door: Door) -> _Data:
    found = mixture(config, door, targets(door.codec, door.limit, config.overlong))
    task, reason = task_of(config.task, Tally.of(Joined(found.stores)))
    door.console.choose("task", task.kind, reason)
    if why := other_task(config.best, task.kind):
        raise ConfigError([Problem(place="best", what=why, fix="take one of these, or leave best out")])
    unknown = unknown_labels(task, found.held)
    if unknown:
        raise DataError(folded(unknown))
    sets = [Weighted(items=task.targets(part.items), weight=part.weight) for part in found.sets]
    return _Data(task=task, sets=sets, held=task.targets(found.held))


def _train(config: ClassifyConfig, opened: Opened[_Data]) -> Run:
    codec, run, data = opened.codec, opened.run, opened.data
    console, pad = run.console, pad_id(codec)
    where = setup.machine(config, console)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing, trained=config.lora is None)
    rate = setup.learning_rate(config, start.loaded.model, console)
    policy, parameters = setup.role(
        start, "classify", config.lora, packing=start.policy.trunk.packing, seed=config.seed
    )
    scalar = new_scalar(policy, config.seed, outputs=data.task.outputs)
    trunk = {id(part) for part in scalar.model.parameters()}
    # A language head that is not tied to the embedding has no part in a label.
    trained = [*(part for part in parameters if id(part) in trunk), *scalar.score.parameters()]
    gate_scalar(scalar, start.loaded.own_attention, packing=policy.trunk.packing)
    budget = budget_of(config.micro_batch_tokens, where, setup.config_of(config.model), vocabulary=False)
    source = EpochSource(
        data.sets,
        lambda items: target_step(items, budget.tokens),
        batch_size=config.batch_size,
        epochs=config.epochs,
        steps=config.steps,
        seed=config.seed,
    )
    group = ParameterGroup(name="classify", parameters=trained, learning_rate=rate)
    engine = setup.engine(config, [group], source.steps, where)
    reader = ScoreReader(model=scalar)
    objective = objectives.head(reader, classes=bool(data.task.names))

    def outputs() -> HeadOutputs:
        with where.autocast():
            return head_outputs(reader, data.held, budget.tokens)

    def save(folder: Path) -> None:
        save_scalar(scalar, folder, base=start.loaded.base, pad_id=pad, task=data.task.kind, names=data.task.names)
        codec.save(folder, pad=pad)
        ClassifierCard(task=data.task.kind, labels=data.task.names).write(folder)

    evaluated = steps_between(config.eval_every, source.steps) if data.held else None
    hooks = setup.evaluating(evaluated, source.steps, lambda: outputs().values())
    load = load_of(budget, data.sets, source, config.batch_size, target_step)
    best = best_of_rows(config.best, trained, source, console, interval=evaluated)
    parts = fitting.Parts(
        source=source, objective=objective, engine=engine, models={"classifier": scalar}, load=load, save=save,
        best=best,
    )  # fmt: skip
    kept = fitting.train(config, run, parts, where, hooks)
    parts.save(Path(config.out))
    results = outputs().estimates() if data.held else {}
    for name, found in results.items():
        console.say(f"held-out {name} {found}")
    facts = {f"eval_{name}": found.facts() for name, found in results.items()}
    return fitting.ended(config, run, parts, {**facts, **kept})


def head_outputs(reader: ScoreReader, items: Sequence[TargetItem], budget: int) -> HeadOutputs:
    """A head's outputs for items that have targets, in order."""
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    device = reader.model.score.weight.device
    scalar = reader.model
    before = scalar.training
    scalar.eval()
    try:
        with torch.inference_mode():
            for batch in target_batches(items, budget):
                on = moved(batch, device)
                outputs.append(reader(on.tokens, torch.arange(len(on.targets), device=device)).float().cpu())
                targets.append(batch.targets)
    finally:
        scalar.train(before)
    return HeadOutputs(outputs=torch.cat(outputs).clone(), targets=torch.cat(targets))
