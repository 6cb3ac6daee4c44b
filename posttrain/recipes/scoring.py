"""Reward models as scorers: raw head outputs to the numbers that PPO and evaluation use."""

from __future__ import annotations

import inspect
import json
import runpy
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from posttrain.data.pack import pack, split_by_tokens
from posttrain.errors import ModelError
from posttrain.models.heads import ScalarModel
from posttrain.models.load import REWARD_CARD, is_reward_model
from posttrain.objectives import ScoreReader
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import Completion, PrefixGroup, PromptRecord, Scorer, Span, TokenBatch, moved


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardCard:
    """`reward.json`: a score is (raw - shift) / scale; `score_at` is `last` or `mean`."""

    shift: float
    scale: float
    score_at: str

    def write(self, folder: Path) -> None:
        """Writes the card beside the weights."""
        (folder / REWARD_CARD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: str) -> RewardCard:
        """The card of a reward model's folder. Raises ModelError when there is none."""
        Run(Path(folder)).require_done()
        if not is_reward_model(folder):
            raise ModelError(
                f"{folder} is no reward model: it has no {REWARD_CARD}\n  fix: train one with `posttrain reward`"
            )
        return RewardCard(**json.loads((Path(folder) / REWARD_CARD).read_text(encoding="utf-8")))


class RewardScorer:
    """A `Scorer` by a reward model, with its own tokenizer and template.

    Where these are the policy's, the sampled tokens themselves are scored; else the answer is rendered again as text.
    """

    def __init__(self, scalar: ScalarModel, card: RewardCard, own: Codec, *, shared: bool, budget: int) -> None:
        self._reader = ScoreReader(model=scalar, mean=card.score_at == "mean")
        self._card = card
        self._own = own
        self._shared = shared
        self._budget = budget

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        """Float32 [len(completions)] normalised scores, in order."""
        groups = [self._group(completion) for completion in completions]
        raw = score_groups(self._reader, groups, self._budget)
        return (raw - self._card.shift) / self._card.scale

    def _group(self, completion: Completion) -> PrefixGroup:
        prompt, tokens = completion.prompt.tokens, completion.tokens
        if not self._shared:
            record = completion.prompt.record
            prompt = self._own.prompt(record).tokens
            tokens = self._own.answer(record, completion.text, ended=completion.stopped)
        return answer_group(completion.prompt.id, prompt, [tokens])


def _names_of(path: Path, file: str) -> dict[str, object]:
    """What the user's file defines. Raises ModelError, with the line, when it cannot be run."""
    try:
        return runpy.run_path(str(path))
    except Exception as error:  # whatever the user's own code raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = file if line is None else f"{file}:{line}"
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ModelError(f"{place}  cannot be run: {type(error).__name__}: {reason}\n  fix: mend the file") from error


def check_reward(spec: str) -> None:
    """Raises ModelError unless `spec` is a reward model or a function of a file, before anything is loaded."""
    if is_function(spec):
        function_scorer(spec)
    else:
        RewardCard.read(spec)


def check_policy(model: str) -> None:
    """Raises ModelError for a reward model where a model that writes answers is asked for."""
    if is_reward_model(model):
        what = f"{model} is a reward model: it scores answers and writes none"
        raise ModelError(f"{what}\n  fix: give the model that it was trained from, or another run of sft, ppo or dpo")


def is_function(spec: str) -> bool:
    """True for `file.py:name`."""
    return ":" in spec and not is_reward_model(spec)


def function_scorer(spec: str) -> Scorer:
    """A scorer from `file.py:name`, a function of (prompt, response) texts to a number.

    The file is the user's own code and runs as such. Raises ModelError when there is no such file or function.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ModelError(
            f"{spec}: no such reward model, and no such file as {file}\n  fix: give a run of `posttrain reward`"
        )
    function = cast("Callable[[str, str], float] | None", _names_of(path, file).get(name))
    if function is None:
        raise ModelError(f"{file} has no function {name}\n  fix: define `def {name}(prompt, response): ...` there")
    try:
        inspect.signature(function).bind("prompt", "response")
    except TypeError as error:
        what = f"{spec} cannot be called with a prompt and a response: {error}"
        raise ModelError(f"{what}\n  fix: define `def {name}(prompt, response): ...`") from error

    def one(done: Completion) -> float:
        try:
            return float(function(_asked(done.prompt.record), done.text))
        except Exception as error:  # whatever the user's own code raises
            raise ModelError(
                f"{spec} raised {type(error).__name__}: {error}"
                f"\n  for prompt {done.prompt.id}, answer {done.text!r:.80}"
                "\n  fix: the function, which must return a number for every prompt and answer"
            ) from error

    return lambda completions: torch.tensor([one(done) for done in completions])


def _asked(record: PromptRecord) -> str:
    """The text of a prompt: its last message, or the text to continue."""
    return record.messages[-1].content if record.messages else record.text or ""


def answer_group(name: str, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> PrefixGroup:
    """A prompt with answers to be read, none of which is trained."""
    return PrefixGroup(
        id=name,
        root=Span.all(prompt, trained=False),
        branches=tuple(Span.all(answer, trained=False) for answer in answers),
    )


def score_groups(reader: ScoreReader, groups: Iterable[PrefixGroup], budget: int) -> Tensor:
    """Raw float32 scores of every branch, group by group."""
    parts: list[Tensor] = []
    device = reader.model.score.weight.device
    with torch.inference_mode():
        for run in split_by_tokens(groups, budget, size=len):
            batch: TokenBatch = moved(pack(run), device)
            parts.append(reader(batch, (batch.parent >= 0).nonzero().flatten()).cpu())
    return torch.cat(parts).clone() if parts else torch.zeros(0)


def same_words(first: Codec, second: Codec) -> bool:
    """True when two codecs turn every conversation into the same tokens: one vocabulary and one template."""
    return (
        first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
        and first.template.jinja == second.template.jinja
        and first.end_of_turn == second.end_of_turn
    )
