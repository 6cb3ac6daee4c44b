"""The scores of answers that stand as text, in a pool or a ranking store: by reward models, functions and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from posttrain.config import EvalConfig
from posttrain.console import Console
from posttrain.recipes import setup
from posttrain.recipes.functions import check_columns
from posttrain.recipes.judging import Judging
from posttrain.recipes.rewarding import check_rewards
from posttrain.text.chat import Codec
from posttrain.types import Completion, Prompt, PromptRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A prompt with answers as text, and which of them ended by themselves."""

    prompt: PromptRecord
    texts: Sequence[str]
    stopped: Sequence[bool]


def scores_of(config: EvalConfig, asked: Sequence[Answered], *, console: Console) -> list[Tensor]:
    """For each prompt float [K], the scores of its answers by the judge of an evaluation of `model`.

    NaN for an answer that a function failed on. Functions are given the tokens that `model` would read. Raises as
    `eval` does: ModelError for what is no reward, and where a function fails too often; DataError for a prompt without
    a column that a function must have.
    """
    setup.quiet_libraries()
    functions = check_rewards(config.judge or ())
    check_columns(functions, [each.prompt for each in asked])
    codec = Codec.load(config.model, template=config.template)
    answers = [done for each in asked for done in _completions(codec, each)]
    judging = Judging(config, functions, setup.machine(config), console)
    if not answers:
        return []
    total = judging.grades(judging.judge(codec), answers, "").total
    return list(total.split([len(each.texts) for each in asked]))


def _completions(codec: Codec, asked: Answered) -> list[Completion]:
    """The answers as if they had just been sampled; what their tokens cost is not known."""
    record = asked.prompt
    prompt: Prompt = codec.prompt(record)
    return [
        Completion(
            prompt=prompt,
            sample=number,
            tokens=codec.answer(record, text, ended=stopped),
            text=text,
            logprobs=(),
            stopped=stopped,
        )
        for number, (text, stopped) in enumerate(zip(asked.texts, asked.stopped, strict=True))
    ]
