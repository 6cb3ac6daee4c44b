"""The whole pipeline on a real model and real stories, in one command.

    python -m examples.stories.run --model MODEL --data STORIES --out runs/stories

Instructions from stories → SFT → four answers a prompt → a simulated annotator → reward model → PPO, DPO, and PPO
without a KL penalty → fresh answers to held-out prompts, in results.md and results.json. Run again, it goes on where
it stopped: what is done is not done again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import App, Parameter

from examples.stories.instructions import Instruction, askable_words, cut_stories, make_instructions
from examples.stories.measures import Exam, compare
from examples.stories.rankings import rank_pool
from examples.stories.report import Results, markdown, write_results
from examples.stories.stages import ANSWER_TOKENS, Plan, Stages
from examples.stories.texts import load_stories
from posttrain.console import Console, open_console
from posttrain.errors import DataError, PosttrainError, Problem, RunExists
from posttrain.text.tokenizer import load_tokenizer
from posttrain.types import Message, PromptRecord

Result = TypeVar("Result")
TRAINED = {"SFT": "sft", "PPO": "ppo", "DPO": "dpo", "PPO, beta 0": "ppo-free"}


def stories(
    *,
    model: Annotated[str, Parameter(help="a model folder or hub id")],
    data: Annotated[str, Parameter(help="stories: a folder, a file or a hub id")],
    out: Annotated[Path, Parameter(help="the folder for everything")] = Path("runs/stories"),
    plan: Plan | None = None,
    fresh: Annotated[bool, Parameter(negative="", help="do every stage again")] = False,
    quiet: Annotated[bool, Parameter(negative="", help="show only the results")] = False,
) -> Results:
    """Base → SFT → rankings (simulated) → reward model → PPO and DPO → evaluation, on stories."""
    plan = plan or Plan()
    console = open_console(quiet=quiet)
    stages = Stages(model=model, out=out, plan=plan, fresh=fresh, quiet=quiet)
    timed = Clock(out / "seconds.json", console)
    if fresh:
        timed.file.unlink(missing_ok=True)
    held_out = timed("instructions", lambda: write_instructions(stages, data, console))
    timed("SFT", stages.sft)
    pool = timed("sampling", stages.pool)
    labels = timed("ranking (simulated)", lambda: rank_pool(pool, stages.place("data/ranked.jsonl"), seed=plan.seed))
    reward = timed("reward model", stages.reward)
    timed("PPO", stages.ppo)
    timed("DPO", stages.dpo)
    timed("PPO, beta 0", stages.ppo_free)
    models = {"base": model, **{name: str(stages.place(folder)) for name, folder in TRAINED.items()}}
    exam = Exam(prompts=asked(held_out), max_new_tokens=ANSWER_TOKENS, seed=plan.seed, reward=stages.place("reward"))
    results = Results(
        model=model,
        data=data,
        plan=plan,
        measures=timed("evaluation", lambda: compare(models, "SFT", exam, console)),
        labels=labels,
        reward=reward.results["held_out_accuracy"],
        seconds=timed.seconds,
    )
    write_results(results, out)
    print(markdown(results))
    return results


def write_instructions(stages: Stages, data: str, console: Console) -> list[Instruction]:
    """Writes the instructions to train on and to rank, and returns those that are held out.

    Raises DataError when there are too few, RunExists when the files are there and differ.
    """
    tokenizer = load_tokenizer(stages.model).tokenizer
    texts = load_stories(data)
    train, held_out = (cut_stories(part, tokenizer) for part in (texts.train, texts.held_out))
    askable = askable_words(train)
    rows = make_instructions("train", train, askable)
    apart = make_instructions("held-out", held_out, askable)[: stages.plan.held_out_prompts]
    console.say(
        f"{data}: {len(rows):,} of {len(train):,} stories as instructions, {len(apart):,} of {len(held_out):,} held out"
    )
    if not rows or not apart:
        raise DataError([Problem(place=data, what="no story became an instruction", fix="give whole stories")])
    for name, part in (
        ("instructions", rows),
        ("to_rank", rows[: stages.plan.ranked_prompts]),
        ("held_out", apart),
    ):
        write_once(stages.place(f"data/{name}.jsonl"), part, fresh=stages.fresh)
    return apart


def write_once(path: Path, rows: Iterable[Instruction], *, fresh: bool) -> None:
    """Writes the rows. Raises RunExists when the file holds others and `fresh` is off."""
    text = "".join(json.dumps(row.row(), ensure_ascii=False) + "\n" for row in rows)
    if path.exists() and not fresh and path.read_text(encoding="utf-8") != text:
        raise RunExists(f"{path} was made from other stories or sizes\n  fix: give another --out, or --fresh")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def asked(rows: Sequence[Instruction]) -> list[PromptRecord]:
    """The instructions as prompts, with the story that was cut as the reference."""
    return [
        PromptRecord(
            id=row.id, messages=(Message(role="user", content=row.prompt),), columns={"reference": row.response}
        )
        for row in rows
    ]


@dataclass(slots=True)
class Clock:
    """Runs stages and keeps how long each took; a stage that is skipped later keeps its first, longer time."""

    file: Path
    console: Console

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, as written."""
        return json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}

    def __call__(self, stage: str, act: Callable[[], Result]) -> Result:
        self.console.say(f"── {stage}")
        began = time.monotonic()
        result = act()
        known = self.seconds
        known[stage] = round(max(time.monotonic() - began, known.get(stage, 0.0)), 1)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        return result


def main(words: Sequence[str] | None = None) -> int:
    """The exit code of the command line; the package's own errors are one clear message."""
    app = App(help=stories.__doc__ or "", result_action="return_value", version_flags=())
    app.default(stories)
    try:
        app(words)
    except PosttrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
