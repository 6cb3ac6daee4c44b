"""TRL's side of PPO, in a process and an environment of its own: its trainer as a user starts it.

    PEER/bin/python -m benchmarks.sides.trl_ppo JOB.json

Imports nothing of posttrain. All arguments of the trainer that the job does not name are TRL's defaults.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.frame.generation import useful
from benchmarks.frame.marks import Marks, tell


class Notes:
    """Times of the parts of each round: sampling ends with the last answer, annotating with the first update."""

    def __init__(self, end: int | None) -> None:
        self.sample: list[float] = []
        self.annotate: list[float] = []
        self.lengths: list[list[int]] = []
        self.prompt_tokens = 0
        self._end = end
        self._sampled = 0.0

    def sampled(self, seconds: float, queries: Any, answered: Any, pad: int) -> None:
        """A batch of answers is there: the queries [N, P], padded, and the same with answers [N, P + L]."""
        answers = answered[:, queries.shape[1] :].tolist()
        self.sample.append(seconds)
        self.lengths.append([len(one) if self._end is None else useful(one, self._end) for one in answers])
        self.prompt_tokens = int((queries != pad).sum())
        self._sampled = time.perf_counter()

    def updating(self) -> None:
        """An update begins; the first one of a round ends the annotation."""
        if len(self.annotate) < len(self.sample):
            self.annotate.append(time.perf_counter() - self._sampled)


def main() -> None:
    """Runs the job, and tells what it noted."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import transformers  # noqa: PLC0415 - of the peer's environment
    from trl.experimental.ppo import ppo_trainer  # noqa: PLC0415

    words = transformers.AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    notes = Notes(words.eos_token_id if job["arguments"]["stop_token"] else None)
    _listen(ppo_trainer, notes)
    trainer = _trainer(job, words)
    accumulate = trainer.accelerator.accumulate

    def updating(*given: Any) -> Any:
        notes.updating()
        return accumulate(*given)

    trainer.accelerator.accumulate = updating
    marks = Marks(job["device"])

    class Rounds(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            marks.step()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.step()

    trainer.add_callback(Rounds())
    marks.loaded()
    trainer.train()
    first = next(row for row in trainer.state.log_history if "objective/kl" in row)
    tell(
        marks.facts(
            sample=notes.sample,
            annotate=notes.annotate,
            lengths=notes.lengths,
            prompt_tokens=notes.prompt_tokens,
            kl=first["objective/kl"],
            ratio=first["val/ratio"],
            score=first["objective/scores"],
        )
    )


def _listen(module: Any, notes: Notes) -> None:
    """Notes each batch of answers that the trainer samples."""
    sample = module.batch_generation

    def timed(model: Any, queries: Any, size: int, pad: int, settings: Any) -> Any:
        began = time.perf_counter()
        answered, logits = sample(model, queries, size, pad, settings)
        notes.sampled(time.perf_counter() - began, queries, answered, pad)
        return answered, logits

    module.batch_generation = timed


def _trainer(job: dict[str, Any], words: Any) -> Any:
    """The trainer with its four models, as TRL's example has it."""
    from datasets import Dataset  # noqa: PLC0415 - of the peer's environment
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: PLC0415
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # noqa: PLC0415

    policy, reference = (AutoModelForCausalLM.from_pretrained(job["model"]) for _ in range(2))
    reward, value = (AutoModelForSequenceClassification.from_pretrained(job["scorer"], num_labels=1) for _ in range(2))
    rows = Dataset.from_dict({"input_ids": job["prompts"]})
    return PPOTrainer(
        args=PPOConfig(output_dir=job["out"], **job["arguments"]), processing_class=words, model=policy,
        ref_model=reference, reward_model=reward, value_model=value, train_dataset=rows, eval_dataset=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
