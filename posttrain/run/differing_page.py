"""The page of `runs diff`: what two runs differ in, in the lines that people read, and what that hints at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from posttrain.console.page import Line, line, visible
from posttrain.counted import counted
from posttrain.run.differing import Difference, Pairs, Side, StepDifference

_SHOWN = 8
_SAMPLING = ("ppo", "online-dpo")
_CAUSES = {
    "batch": "other rows, or another order: data, seed, batch_size, lengths, tokenizer and template",
    "loss": "the same rows and weights, another loss: its settings, versions, threads, precision, micro-batches",
    "weights": "the same rows and loss, another update: learning_rate and its schedule, weight_decay, grad_clip, "
    "versions, threads",
    "metrics": "the same weights, measured otherwise: eval_data, the settings of the measures, random numbers",
}
_ANSWERS = "other prompts or answers: prompts, seed, the settings of sampling, versions, threads"
_REWARDED = "the same answers and weights, another loss: rewards, its settings, versions, threads, precision"
_START = "the runs begin with other weights: another start model, or another seed of a new adapter or head"
_METRICS = "metrics alone do not tell rows from weights: settings, data, versions, threads"
_GAP = "its row of metrics.jsonl is missing in {}: the file was changed, or lines of it found no room"
_OTHERS = "other weights are trained: lora, its targets, layout, heads"
_FILES = "every step ends at the same weights: the files were changed, or the model was saved, in another way"


def page(found: Difference) -> list[Line]:
    """The lines for two runs."""
    one, other = found.sides
    joined = "and" if found.identical else "against"
    return [
        line("", (f"{visible(one.path)} {joined} {visible(other.path)}", "strong")),
        *_pairs("settings", found.settings),
        *_pairs("machine", found.machine),
        *_pairs("data", found.origins),
        *_ends(found.sides),
        *_of_steps(found),
        *_of_weights(found),
        *([line("hint", hint(found))] if not found.identical else []),
    ]


def hint(found: Difference) -> str:
    """What the pattern of the differences points at."""
    first, (one, other) = found.first, found.sides
    if one.command != other.command:
        return f"one is a run of {visible(one.command)}, the other of {visible(other.command)}"
    if (one.alone or other.alone) and (first is None or first.what[0] != "batch"):
        return _OTHERS
    if first is None:
        if one.steps != other.steps or one.status != other.status:
            shorter = min(found.sides, key=lambda side: (side.steps, side.status == "done"))
            return f"{visible(shorter.path)} is the beginning of the other, as far as it goes"
        return _FILES
    if first.what == ("metrics",) and "step" in first.metrics:
        return _GAP.format(visible((one if first.metrics["step"][0] is None else other).path))
    for side, beside in ((one, other), (other, one)):
        if first.step - 1 in side.resumes.keys() - beside.resumes.keys():
            names = side.resumes[first.step - 1]
            what = f", with other weights than it had: {_names(names)}" if names else ": what was restored is another"
            return f"{visible(side.path)} went on from its checkpoint of step {first.step - 1} right before{what}"
    return _cause(found, first)


def _cause(found: Difference, first: StepDifference) -> str:
    if first.step == 0 and first.what[0] == "weights":
        return _START
    if not first.tensors and first.what[0] != "batch":
        return _METRICS
    if all(side.command in _SAMPLING for side in found.sides):
        return {"batch": _ANSWERS, "loss": _REWARDED}.get(first.what[0], _CAUSES[first.what[0]])
    return _CAUSES[first.what[0]]


def _pairs(label: str, pairs: Pairs) -> Iterator[Line]:
    """The first of the pairs, a line each; an absent value is `-`."""
    for number, (name, values) in enumerate([*pairs.items()][:_SHOWN]):
        before, after = map(_value, values)
        yield line(label if not number else " ", f"{visible(name)}: {before} -> {after}")
    if len(pairs) > _SHOWN:
        yield line(" ", (f"and {len(pairs) - _SHOWN} more; --json has all", "dim"))


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.10g}"
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _ends(sides: tuple[Side, Side]) -> Iterator[Line]:
    """Where each of them stands, when not both are done."""
    if any(side.status != "done" for side in sides):
        said = ", ".join(f"{visible(side.path)} is {visible(side.status)} at step {side.steps}" for side in sides)
        yield line("status", said)
    for side in sides:
        if side.alone:
            yield line("weights", f"only {visible(side.path)} trains {_names(side.alone)}")
        if not side.fingerprints:
            yield line("", (f"{visible(side.path)} has no fingerprints: steps go by metrics.jsonl", "dim"))


def _of_steps(found: Difference) -> Iterator[Line]:
    lengths = " and ".join(dict.fromkeys(str(side.steps) for side in found.sides))
    first = found.first
    if first is None:
        what = "metrics" if found.by_metrics else "batch, loss and weights"
        least = min(side.steps for side in found.sides)
        more = "" if all(side.steps == least for side in found.sides) else f", as far as both go ({lengths})"
        yield line("steps", f"{counted(least, 'step')} with the same {what}{more}")
        return
    where = "before the first step" if first.step == 0 else f"step {first.step} is the first that differs"
    yield line("steps", f"{where}, of {lengths}: {', '.join(first.what)}")
    if first.weights:
        yield line(" ", f"{len(first.weights)} of {counted(first.tensors, 'tensor')}: {_names(first.weights)}")
    yield from _pairs(" ", {name: pair for name, pair in first.metrics.items() if _told(name, first)})


def _told(name: str, first: StepDifference) -> bool:
    """Whether a metric is worth a line: the losses, or whatever differs where nothing else does."""
    return first.what == ("metrics",) or ("loss" in name and "loss" in first.what)


def _of_weights(found: Difference) -> Iterator[Line]:
    """What is saved at the end; nothing where a run is not done."""
    saved = found.weights
    if saved is None:
        return
    if saved.same:
        yield line("saved", f"{counted(saved.common, 'tensor')}, the same bits")
        return
    if saved.differing:
        yield line(
            "saved", f"{len(saved.differing)} of {counted(saved.common, 'tensor')} differ: {_names(saved.differing)}"
        )
    for side, names in zip(found.sides, saved.alone, strict=True):
        if names:
            yield line("saved", f"only {visible(side.path)} has {_names(names)}")


def _names(names: Sequence[str]) -> str:
    """The first name, and how many others there are."""
    more = f" and {counted(len(names) - 1, 'other')}" if len(names) > 1 else ""
    return visible(names[0]) + more
