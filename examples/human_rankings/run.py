"""A reward model on real rankings: cross-validated by prompt, and how well it can learn a few prompts by heart.

    python -m examples.human_rankings.run --model MODEL --data RANKINGS --out runs/rankings

Accuracy is reported whatever it is, beside the judge that prefers the longer answer. Folds that are done already are
not trained again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from torch import Tensor

import posttrain as pt
from examples.human_rankings.folds import (
    Accuracy,
    Rankings,
    accuracy,
    lengths,
    load_rankings,
    model_scores,
    write_records,
)
from posttrain.data.examples import RankedItem
from posttrain.types import RankedRecord


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the reward models are trained."""

    folds: Annotated[int, Parameter(help="parts, each held out once")] = 5
    epochs: Annotated[float, Parameter(help="passes over the training folds")] = 2.0
    max_length: Annotated[int, Parameter(help="tokens of a prompt with an answer; longer answers are cut")] = 512
    fit_prompts: Annotated[int, Parameter(help="prompts to be learnt by heart")] = 64
    fit_epochs: Annotated[float, Parameter(help="passes over them")] = 12.0
    learning_rate: Annotated[float, Parameter(help="of all reward models")] = 1e-3
    seed: Annotated[int, Parameter(help="of folds and training")] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What was found. `fitted` is the accuracy on the very prompts that were learnt by heart; `seconds` of training."""

    model: str
    data: str
    plan: Plan
    losses: Mapping[str, int]
    held_out: Accuracy
    by_fold: Sequence[Accuracy]
    longer: Accuracy
    fitted: Accuracy
    seconds: float


def rankings(
    *,
    model: Annotated[str, Parameter(help="a model folder or hub id")],
    data: Annotated[str, Parameter(help="ranked answers: any layout that `posttrain reward` reads")],
    out: Annotated[Path, Parameter(help="the folder for everything")] = Path("runs/rankings"),
    plan: Plan | None = None,
    fresh: Annotated[bool, Parameter(negative="", help="train everything again")] = False,
    quiet: Annotated[bool, Parameter(negative="", help="show only the results")] = False,
) -> Results:
    """Cross-validate a reward model on ranked answers, and let it learn a few prompts by heart."""
    plan = plan or Plan()
    found = load_rankings(data, model, plan.max_length)
    train = Trainer(model=model, out=out, plan=plan, found=found, fresh=fresh, quiet=quiet)
    parts = found.parts(plan.folds, plan.seed)
    items: list[list[RankedItem]] = [found.items(part) for part in parts]
    scores: list[list[Tensor]] = []
    runs: list[pt.Run] = []
    for number, held_out in enumerate(items):
        rest = [record for other, part in enumerate(parts) if other != number for record in part]
        runs.append(train(f"fold-{number + 1}", rest, plan.epochs))
        scores.append(model_scores(runs[-1].path, held_out))
    few = found.records[: plan.fit_prompts]
    runs.append(train("by-heart", few, plan.fit_epochs))
    fitted = model_scores(runs[-1].path, found.items(few))
    flat = [item for part in items for item in part]
    results = Results(
        model=model,
        data=data,
        plan=plan,
        losses=dict(found.losses),
        held_out=accuracy(flat, [row for part in scores for row in part]),
        by_fold=[accuracy(part, rows) for part, rows in zip(items, scores, strict=True)],
        longer=accuracy(flat, lengths(flat)),
        fitted=accuracy(found.items(few), fitted),
        seconds=round(sum(run.metrics[-1]["seconds"] for run in runs), 1),
    )
    (out / "results.json").write_text(json.dumps(asdict(results), indent=2) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(results) + "\n", encoding="utf-8")
    print(markdown(results))
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Trains a reward model on some of the rankings."""

    model: str
    out: Path
    plan: Plan
    found: Rankings
    fresh: bool
    quiet: bool

    def __call__(self, name: str, records: Sequence[RankedRecord], epochs: float) -> pt.Run:
        return pt.reward(
            model=self.model,
            data=write_records(self.out / "data" / f"{name}.jsonl", records),
            out=self.out / name,
            eval_data=None,
            max_length=self.plan.max_length,
            overlong="truncate",
            batch_size=8,
            epochs=epochs,
            learning_rate=self.plan.learning_rate,
            seed=self.plan.seed,
            fresh=self.fresh,
            quiet=self.quiet,
        )


def markdown(results: Results) -> str:
    """The results as a table, and what was lost on the way to it."""
    plan, held = results.plan, results.held_out
    lost = ", ".join(f"{count} {name}" for name, count in results.losses.items() if count) or "nothing"
    rows = [
        (f"reward model, {plan.folds}-fold cross-validation by prompt", held),
        *((f"· fold {number}", fold) for number, fold in enumerate(results.by_fold, 1)),
        ("the longer answer is better", results.longer),
        ("reward model on the prompts it learnt by heart", results.fitted),
    ]
    lines = [f"| {name} | {row} | {row.prompts} | {row.pairs:,} |" for name, row in rows]
    return "\n".join(
        [
            f"`{results.data}` with `{results.model}`, {plan.epochs:g} epochs:",
            "",
            "| judge | accuracy (95 %) | prompts | pairs |",
            "| --- | --- | --- | --- |",
            *lines,
            "",
            f"Lost or cut at {plan.max_length} tokens: {lost}. {results.seconds:.0f} seconds of training.",
        ]
    )


def main(words: Sequence[str] | None = None) -> int:
    """The exit code of the command line; the package's own errors are one clear message."""
    app = App(help=rankings.__doc__ or "", result_action="return_value", version_flags=())
    app.default(rankings)
    try:
        app(words)
    except pt.PosttrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
