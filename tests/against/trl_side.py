"""TRL's side of a comparison: its trainers on a tiny model, given text; they tokenise, pad and reduce themselves."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

VOCABULARY = 259
ENDS: Mapping[str, object] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
REFERENCE = 0.05
"""How far the reference of a trainer is from its policy, as `causal` has it."""
PAIRS: Sequence[tuple[str, str, str]] = [
    ("Say 7:", " seven", " no"),
    ("What is the sky?", " It is blue.", " grey"),
    ("Hi", " Hello you", " a much longer answer"),
]
"""Prompt, chosen and rejected, all of unequal lengths, so that every row but one is padded."""


def pairs() -> list[dict[str, object]]:
    """The pairs as rows of a preference data set."""
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in PAIRS]


def causal(off: float = 0.0) -> Any:
    """The tiny Llama, each weight `off` times a fixed noise away from where it starts."""
    model = tiny("llama", **ENDS)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(off * torch.randn(parameter.shape, generator=generator))
    return model


def classifier() -> Any:
    """The tiny Llama as a reward model of the `transformers` library, with one output."""
    start = tiny("llama", **ENDS)
    start.config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(start.config, dtype=torch.float32)
    model.model.load_state_dict(start.base_model.state_dict())
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """A trainer of TRL, and the batch that its own loader and collator made of the rows."""

    trainer: Any
    batch: dict[str, Any]

    def loss(self, batch: Mapping[str, Any] | None = None, **options: object) -> tuple[float, dict[str, Tensor]]:
        """TRL's loss of a batch, and its gradient by parameter name."""
        self.trainer.model.zero_grad()
        loss = self.trainer.compute_loss(self.trainer.model, dict(batch or self.batch), **options)
        loss.backward()
        gradient = {name: part.grad.clone() for name, part in self.trainer.model.named_parameters()}
        return float(loss.detach()), gradient

    def rows(self, rows: Sequence[int]) -> dict[str, Any]:
        """What TRL's collator makes of some rows of the data set alone."""
        trainer = self.trainer
        columns = trainer.train_dataset.column_names
        return trainer.data_collator([{name: trainer.train_dataset[row][name] for name in columns} for row in rows])


@dataclass(frozen=True, kw_only=True)
class Build:
    """Makes trainers of TRL on rows of text; `tokenizer` is where its tokenizer lies, `folder` where it may write.

    The weights are `causal()`, or a classifier's on them; DPO and KTO get a reference that is off from them.
    """

    folder: Path
    tokenizer: Path

    def __call__(
        self,
        kind: str,
        rows: Sequence[Mapping[str, object]],
        *,
        reference: float | None = REFERENCE,
        model: Any = None,
        peft: Any = None,
        **settings: Any,
    ) -> Theirs:
        """The trainer of a kind, and the one batch that all rows make. `reference` None leaves it to TRL."""
        trainer_type, config_type = trainers()[kind]
        datasets = pytest.importorskip("datasets", reason="TRL's trainers take their rows from it")
        config = config_type(
            output_dir=str(self.folder), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=len(rows), disable_tqdm=True, remove_unused_columns=False, **settings,
        )  # fmt: skip
        held = {"ref_model": causal(reference)} if kind in ("dpo", "kto") and reference is not None else {}
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            trainer = trainer_type(
                model=model or (classifier() if kind == "reward" else causal()),
                args=config,
                train_dataset=datasets.Dataset.from_list([dict(row) for row in rows]),
                processing_class=PreTrainedTokenizerFast.from_pretrained(self.tokenizer),
                **held,
                **({} if peft is None else {"peft_config": peft}),
            )
            trainer.model.train()
            return Theirs(trainer=trainer, batch=next(iter(trainer.get_train_dataloader())))


def trainers() -> dict[str, tuple[Any, Any]]:
    """TRL's trainers and their settings, by kind; the test is skipped where TRL is not installed."""
    trl = pytest.importorskip("trl", reason="compares with TRL, which the dev extra installs")
    cpo = pytest.importorskip("trl.experimental.cpo", reason="TRL of another version")
    orpo = pytest.importorskip("trl.experimental.orpo", reason="TRL of another version")
    return {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "reward": (trl.RewardTrainer, trl.RewardConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
        "orpo": (orpo.ORPOTrainer, orpo.ORPOConfig),
        "cpo": (cpo.CPOTrainer, cpo.CPOConfig),
    }
