"""TRL's side of a training benchmark, in a process and an environment of its own: its trainer as a user starts it.

    PEER/bin/python -m benchmarks.sides.trl_training JOB.json

Imports nothing of posttrain. All arguments of the trainer that the job does not name are TRL's defaults.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.frame.digest import row_hash, step_hashes
from benchmarks.frame.marks import Marks, tell


def main() -> None:
    """Runs the job, and tells what it noted."""
    import transformers  # noqa: PLC0415 - of the peer's environment
    from datasets import load_dataset  # noqa: PLC0415

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = load_dataset("json", data_files=job["data"], split="train", cache_dir=job["out"] + "/cache")
    words = transformers.AutoTokenizer.from_pretrained(job["model"])
    before = {"seconds": 0.0, "cpu": 0.0}
    trainer = _trainer(job, rows, words, before)
    marks = Marks(job["device"])

    class Notes(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            marks.step()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.step()

    trainer.add_callback(Notes())
    marks.loaded()
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    size = job["arguments"]["per_device_train_batch_size"] * job["arguments"]["gradient_accumulation_steps"]
    hashes = list(_rows(job["method"], trainer.train_dataset, words))
    tell(marks.facts(losses=losses, steps=step_hashes(hashes, size), before=before))


def _trainer(job: dict[str, Any], rows: Any, words: Any, before: dict[str, float]) -> Any:
    """The trainer of the method, its model loaded by its path as TRL's own documentation has it.

    `before` gets the time of reference log-probs that are computed beforehand.
    """
    import trl  # noqa: PLC0415 - of the peer's environment

    trainer, config = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "reward": (trl.RewardTrainer, trl.RewardConfig),
    }[job["method"]]
    if job["method"] == "dpo":
        computed = trainer._precompute_ref_logps

        def timed(*given: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return computed(*given, **named)
            finally:
                before["seconds"] += time.perf_counter() - wall
                before["cpu"] += time.process_time() - cpu

        trainer._precompute_ref_logps = timed
    arguments = config(output_dir=job["out"], **job["arguments"])
    return trainer(model=job["model"], args=arguments, train_dataset=rows, processing_class=words)


def _rows(method: str, dataset: Any, words: Any) -> Iterator[str]:
    """The hash of each row that the trainer reads, in its order."""
    for row in dataset:
        if method == "sft":
            cut = next(place for place, label in enumerate(row["labels"]) if label != -100)
            yield row_hash(row["input_ids"][:cut], row["input_ids"][cut:])
        elif method == "dpo":
            yield row_hash(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"])
        else:
            cut = len(words.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"])
            chosen, rejected = row["chosen_ids"], row["rejected_ids"]
            yield row_hash(chosen[:cut], chosen[cut:], rejected[cut:])


if __name__ == "__main__":
    main()
