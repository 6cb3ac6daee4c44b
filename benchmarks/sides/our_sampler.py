"""Our side of generation, in a process of its own: the sampler as `posttrain sample` makes it.

python -m benchmarks.sides.our_sampler JOB.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.frame.marks import Marks, tell
from posttrain.config import CONFIGS, make_config
from posttrain.console import open_console
from posttrain.recipes import setup
from posttrain.types import Prompt, PromptRecord, SamplingSpec


def main() -> None:
    """Runs the job, and tells what it noted."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    marks, console = Marks(job["device"]), open_console(quiet=True)
    settings = {"model": job["model"], "prompts": "unread", "out": "unread", "precision": job["precision"]}
    config: Any = make_config(CONFIGS["sample"], settings)
    setup.quiet_libraries()
    codec = setup.load_codec(config.model, None, console)
    where = setup.machine(config, console)
    start = setup.load_start(config.model, codec, where, console)
    answer = setup.sampler(start.policy, codec, start.context, where)
    prompts = [
        Prompt(id=str(number), tokens=tuple(ids), record=PromptRecord(id=str(number), text="", columns={}))
        for number, ids in enumerate(job["prompts"])
    ]
    marks.loaded()
    marks.step()
    lengths: list[list[int]] = []
    tokens: list[list[int]] = []
    for run in range(1 + job["runs"]):
        temperature = 0.0 if job["greedy"] else 1.0
        spec = SamplingSpec(
            max_new_tokens=job["longest"], samples=job["samples"], temperature=temperature, seed=0, round=run
        )
        answers = answer(prompts, spec)
        marks.step()
        lengths.append([len(found.tokens) for found in answers])
        tokens = [list(found.tokens) for found in answers]
    tell(marks.facts(lengths=lengths, tokens=tokens if job["greedy"] else []))


if __name__ == "__main__":
    main()
