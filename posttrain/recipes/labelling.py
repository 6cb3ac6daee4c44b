"""A classifier on rows: what it says of each, and how right that is where they have labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from posttrain.config import EvalConfig
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.classes import Task, unknown_labels
from posttrain.data.examples import Lost, TargetItem, target_fitted
from posttrain.data.readers import folded
from posttrain.errors import ConfigError, DataError, Problem
from posttrain.measures.labels import HeadOutputs
from posttrain.models.load import load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes import setup
from posttrain.recipes.classify import ClassifierCard, head_outputs
from posttrain.recipes.rows import read_rows
from posttrain.text.chat import Codec
from posttrain.types import PromptRecord, TargetRecord


def evaluate_labels(config: EvalConfig, console: Console) -> dict[str, object]:
    """The measures of a classifier on the rows that have labels; with `out` also what it says of every row.

    Raises ConfigError when there is nothing to tell; DataError for unknown labels.
    """
    card, codec = ClassifierCard.read(config.model), Codec.load(config.model, template=config.template)
    task = Task(names=card.labels)
    limit = setup.max_length(config.max_length, setup.context_of(config.model), console)
    items = _items(config, codec, limit, console)
    measured = [place for place, item in enumerate(items) if item.label]
    unknown = unknown_labels(task, [items[place] for place in measured])
    if unknown:
        raise DataError(folded(unknown))
    if not measured and config.out is None:
        what = "the rows have no label, so nothing can be measured"
        raise ConfigError([Problem(place="--data", what=what, fix="give --out FILE for what the model says of them")])
    where = setup.machine(config, console)
    scalar, own = load_scalar(config.model, device=where.device, bf16=where.bf16)
    gate_scalar(scalar, own, packing=config.packing == "auto")
    targets = task.targets(items)
    known = [targets[place] if item.label else item for place, item in enumerate(items)]
    with where.autocast():
        said = head_outputs(ScoreReader(model=scalar), known, config.micro_batch_tokens)
    found: dict[str, object] = {"rows": len(items)}
    if measured:
        rows = torch.tensor(measured)
        estimates = HeadOutputs(outputs=said.outputs[rows], targets=said.targets[rows]).estimates()
        found |= {name: estimate.facts() for name, estimate in estimates.items()}
    if config.out is not None:
        found["predictions"] = _predictions(items, said, task)
    return found


def _items(config: EvalConfig, codec: Codec, limit: int, console: Console) -> list[TargetItem]:
    """The rows as tokens; one without a label has an empty one. Says how many are too long.

    Raises DataError when none is left.
    """
    records: list[TargetRecord] = []
    for part in read_rows(config.data, ("target", "prompt"), console):
        records += part.of(TargetRecord)
        prompts = part.of(PromptRecord)
        records += [TargetRecord(id=prompt.id, asked=_as_read(prompt), label="", number=False) for prompt in prompts]
    lost = Lost()
    encoded = codec.prompts([record.asked for record in records])
    fitted = [
        target_fitted(record, prompt.tokens, limit, "drop", lost)
        for record, prompt in zip(records, encoded, strict=True)
    ]
    if lost.counts:
        console.say(f"{counted(lost.counts['overlong'], 'row')} longer than max_length {limit:,}, left out")
    items = [item for item in fitted if item is not None]
    if not items:
        raise DataError("no row is left to measure\n  fix: raise max_length")
    return items


def _as_read(prompt: PromptRecord) -> PromptRecord:
    """The prompt as its labelled like is read: whole where it ends with an answer."""
    return replace(prompt, whole=bool(prompt.messages) and prompt.messages[-1].role == "assistant")


def _predictions(items: Sequence[TargetItem], said: HeadOutputs, task: Task) -> list[dict[str, object]]:
    """What the model says of each row: the likeliest class with the probability of each, or a number."""
    rows: list[dict[str, object]] = []
    outputs = said.outputs.softmax(dim=1) if task.names else said.outputs
    for item, output in zip(items, outputs, strict=True):
        row: dict[str, object] = {"id": item.group.id, **({"label": item.label} if item.label else {})}
        if task.names:
            scores = dict(zip(task.names, output.tolist(), strict=True))
            row |= {"predicted": task.names[int(output.argmax())], "scores": scores}
        else:
            row["predicted"] = float(output)
        rows.append(row)
    return rows
