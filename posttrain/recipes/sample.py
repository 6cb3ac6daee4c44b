"""Answers to prompts as JSON lines: a pool to read, to rank, or to score."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from posttrain.config import SampleConfig
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.errors import RunExists
from posttrain.recipes import setup
from posttrain.recipes.rows import read_rows
from posttrain.recipes.scoring import check_policy
from posttrain.run import check_file_out
from posttrain.types import Completion, Prompt, PromptRecord, SamplingSpec


def sample(config: SampleConfig, *, console: Console, fresh: bool = False) -> Path:
    """Writes `k` answers to every prompt, and returns the file's path.

    Raises RunExists when the file exists and `fresh` is off: a pool may hold work that nothing can repeat. And for a
    file that holds the prompts.
    """
    setup.quiet_libraries()
    path = Path(config.out)
    if path.is_file() and not fresh:
        raise RunExists(f"{path} exists\n  fix: give another --out, or --fresh to write over it")
    check_file_out(config.out, [item.path for item in config.prompts], over=fresh)
    context = setup.context_of(config.model)
    check_policy(config.model)
    codec = setup.load_codec(config.model, config.template, console)
    setup.refuse_weights(config.prompts, "prompts")
    rows = read_rows(config.prompts, ("prompt",), console)
    prompts = codec.prompts([record for part in rows for record in part.of(PromptRecord)])
    setup.check_room(prompts, context)
    setup.say_room(prompts, context, config.max_new_tokens, console)
    where = setup.machine(config, console)
    start = setup.load_start(config.model, codec, where, console)
    answer = setup.sampler(start.policy, codec, start.context, where, tell=console.say)
    completions = answer(prompts, sampling_spec(config))
    write_pool(path, prompts, completions, config.k)
    ended = sum(completion.stopped for completion in completions)
    answers = f"{counted(len(completions), 'answer')} to {counted(len(prompts), 'prompt')}"
    console.finish(f"{answers} in {path}, {ended:,} ended by themselves")
    return path


def sampling_spec(config: SampleConfig) -> SamplingSpec:
    """The settings as the sampler takes them."""
    return SamplingSpec(
        max_new_tokens=config.max_new_tokens,
        samples=config.k,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        stop=config.stop,
        seed=config.seed,
    )


def write_pool(path: Path, prompts: Sequence[Prompt], completions: Sequence[Completion], k: int) -> None:
    """One row a prompt: its messages or text, the `k` responses, which of them ended by themselves, its own columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for number, prompt in enumerate(prompts):
            answers = completions[number * k : (number + 1) * k]
            file.write(json.dumps(pool_row(prompt.record, answers), ensure_ascii=False) + "\n")
    os.replace(partial, path)


def pool_row(record: PromptRecord, answers: Sequence[Completion]) -> dict[str, object]:
    """A prompt with its answers, as `rank` and the simulated annotators read it."""
    row: dict[str, object] = {"id": record.columns.get("id", record.id)}
    if record.messages is None:
        row["prompt"] = record.text
    else:
        row["messages"] = [{"role": message.role, "content": message.content} for message in record.messages]
    row["responses"] = [answer.text for answer in answers]
    row["stopped"] = [answer.stopped for answer in answers]
    return {**record.columns, **row}
