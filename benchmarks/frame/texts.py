"""The texts that benchmarks train on, and the tokenizer that reads them.

GSM8K where the folder `../shared/data` is: questions and answers, and pairs of a correct and a wrong solution. Else
the world of the demo, which the package writes itself; there a wrong answer is that of another question.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
TEMPLATE = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{- 'Answer: ' + message['content'] + eos_token -}}"
    "{%- else -%}{{- 'Question: ' + message['content'] + '\\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Answer:' -}}{%- endif -%}"
)
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def source() -> str:
    """Where the texts come from, in words."""
    return "GSM8K" if GSM8K.is_dir() else "the demo's world (../shared/data is not there)"


def answers() -> list[tuple[str, str]]:
    """Distinct (question, answer), in the order of the file."""
    if not GSM8K.is_dir():
        return [(row.prompt, row.answer) for row in _world()]
    rows = _lines(GSM8K / "train.jsonl")
    return list(dict.fromkeys((str(row["question"]), str(row["answer"])) for row in rows))


def pairs() -> list[tuple[str, str, str]]:
    """(question, correct solution, wrong solution), one for each question that has both."""
    if not GSM8K.is_dir():
        rows = _world()
        return [(row.prompt, row.answer, other.answer) for row, other in pairwise(rows) if row.answer != other.answer]
    return [pair for row in _lines(GSM8K / "example_model_solutions.jsonl") for pair in _pair(row)]


def write_tokenizer(folder: Path, *, vocabulary: int) -> int:
    """A byte-level BPE of these texts, in a folder as `transformers` reads it; how many words it has.

    As large as the texts give, up to `vocabulary`; digits stand alone. It has a beginning, an end and a padding token
    and a chat template, and adds nothing by itself.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415 - where it is made
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    words.train_from_iterator((text for row in (*answers(), *pairs()) for text in row), trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=BOS, eos_token=EOS, pad_token=PAD)
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return len(made)


def _lines(file: Path) -> Iterator[dict[str, object]]:
    with file.open(encoding="utf-8") as handle:
        for line in handle:
            yield json.loads(line)


def _pair(row: dict[str, object]) -> Iterator[tuple[str, str, str]]:
    found: list[dict[str, object]] = [row[name] for name in SOLVERS]  # type: ignore[misc]
    correct = [str(one["solution"]) for one in found if one["is_correct"]]
    wrong = [str(one["solution"]) for one in found if not one["is_correct"]]
    if correct and wrong and correct[0] != wrong[0]:
        yield str(row["question"]), correct[0], wrong[0]


def _world() -> list[Any]:
    from posttrain.workflows.world.generate import make_world  # noqa: PLC0415

    rows = list({row.prompt: row for row in make_world(0).rows["train"]}.values())
    random.Random(0).shuffle(rows)
    return rows
