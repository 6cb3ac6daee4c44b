"""An adapter merged into the weights beneath it; the folder stays only when a probe batch tells no difference."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from posttrain.config import MergeConfig, Training
from posttrain.console import Console
from posttrain.errors import ModelError, RunExists
from posttrain.models import adapter_files
from posttrain.models.heads import Policy, ScalarModel
from posttrain.models.load import START, base_of, is_adapter, is_classifier, load_causal, load_scalar, save_scalar
from posttrain.models.parity import TOLERANCE, gate_policy, gate_scalar, probe_batch
from posttrain.recipes import setup
from posttrain.recipes.classify import ClassifierCard
from posttrain.recipes.reward import pad_id
from posttrain.recipes.weights import check_weights
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.text.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a merge wrote. `difference` is the largest one of a logit, or a score, on the probe batch."""

    out: str
    base: str
    layers: int
    difference: float

    def facts(self) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self)


def merge(config: MergeConfig, *, console: Console) -> Merged:
    """Writes the adapter of `model` as full weights into `out`, compared with it after reading them back.

    Tokenizer, template, generation settings and `reward.json` come along. Raises ModelError, with `out` gone again,
    when the two differ by more than the gate at load allows.
    """
    setup.quiet_libraries()
    source, out = Path(config.model), Path(config.out)
    Run(source).require_done()
    if not is_adapter(config.model):
        base_of(config.model)
        raise ModelError(f"{config.model} holds full weights: there is nothing to merge\n  fix: use it as it is")
    if out.exists():
        raise RunExists(f"{out} exists\n  fix: give another --out, or remove it")
    where = setup.machine()
    check_weights(config.model, where.device)
    _say_bits(source, console)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        found = _merged(config, source, partial, where.device)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    said = f"{found.layers} layers merged; logits or scores differ by at most {found.difference:.0e} after reading back"
    console.finish(f"saved {out}: {said}")
    return found


def _merged(config: MergeConfig, source: Path, folder: Path, device: torch.device) -> Merged:
    """Merges in memory, writes, reads back and compares."""
    kind = _Scored if adapter_files.holds_score(source) else _Spoken
    model = kind.load(config.model, device)
    before, base = model.outputs(), base_of(config.model)
    layers = adapter_files.merge_into(model.module, (START,))
    model.save(folder, source, base)
    _bring(source, folder, base)
    del model
    difference = float((kind.load(str(folder), device).outputs() - before).abs().max())
    if not difference <= TOLERANCE:  # also for NaN
        raise ModelError(
            f"{config.model}: merged weights differ from the adapter's by {difference:.1e} on a probe batch"
            f" (allowed: {TOLERANCE:.0e}); nothing was written"
        )
    (folder / "README.md").write_text(_card(config, base, layers, difference), encoding="utf-8")
    return Merged(out=config.out, base=base, layers=layers, difference=difference)


class _Spoken:
    """A causal model, told by its logits."""

    def __init__(self, policy: Policy, module: PreTrainedModel) -> None:
        self._policy, self.module = policy, module

    @staticmethod
    def load(path: str, device: torch.device) -> _Spoken:
        """The model of a folder, gated."""
        loaded = load_causal(path, device=device)
        policy = Policy(loaded.model, stack=loaded.stack)
        gate_policy(policy, loaded.own_attention)
        return _Spoken(policy, loaded.model)

    def outputs(self) -> Tensor:
        """Logits [T, V] at every token of the probe batch."""
        with torch.no_grad():
            return self._policy.logits(self._policy.trunk(probe_batch(self.module))).float()

    def save(self, folder: Path, source: Path, base: str) -> None:
        """Writes the weights, and a padding token where the class needs one."""
        self.module.save_pretrained(folder)


class _Scored:
    """A reward model or critic, told by its numbers."""

    def __init__(self, scalar: ScalarModel) -> None:
        self._scalar, self.module = scalar, scalar.model

    @staticmethod
    def load(path: str, device: torch.device) -> _Scored:
        """The model of a folder, gated."""
        scalar, own = load_scalar(path, device=device)
        gate_scalar(scalar, own)
        return _Scored(scalar)

    def outputs(self) -> Tensor:
        """The raw number [T] after every token of the probe batch."""
        with torch.no_grad():
            return self._scalar(probe_batch(self.module))

    def save(self, folder: Path, source: Path, base: str) -> None:
        """Writes the weights, and a padding token where the class needs one."""
        words = source if (source / "tokenizer_config.json").is_file() else base
        card = ClassifierCard.read(str(source)) if is_classifier(str(source)) else None
        save_scalar(
            ScalarModel(self.module, self._scalar.score), folder, base=base, pad_id=pad_id(Codec.load(words)),
            task="" if card is None else card.task, names=() if card is None else card.labels,
        )  # fmt: skip


_OF_ADAPTERS = (adapter_files.CONFIG, adapter_files.WEIGHTS, "README.md", "report.html")


def _bring(source: Path, folder: Path, base: str) -> None:
    """What stands beside an adapter goes along: tokenizer, template, generation settings, `reward.json`."""
    for file in source.iterdir():
        if file.is_file() and file.name not in _OF_ADAPTERS:
            shutil.copyfile(file, folder / file.name)
    if not (folder / "tokenizer_config.json").is_file():
        load_tokenizer(base).tokenizer.save_pretrained(str(folder))


def _say_bits(source: Path, console: Console) -> None:
    """Says when the adapter was trained on weights in few bits: it is merged into the full ones."""
    run = Run(source)
    settings = run.config if run.exists() else None
    if isinstance(settings, Training) and settings.quantize is not None:
        console.say(
            f"trained on weights of {settings.quantize}; merged into the full ones, as it is loaded elsewhere too"
        )
    console.say("weights are written in float32")


def _card(config: MergeConfig, base: str, layers: int, difference: float) -> str:
    return (
        f"---\nlibrary_name: transformers\ntags: [posttrain, merge]\n---\n\n# {Path(config.out).name}\n\n"
        f"The adapter `{config.model}` merged into `{base}` with posttrain: {layers} layers. On a probe batch outputs "
        f"differ from the adapter's by at most {difference:.1e}.\n"
    )
