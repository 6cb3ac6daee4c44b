"""Answers beside their references: which rows can be measured, by which rules, and what the measures say."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from posttrain.config import SFTConfig
from posttrain.config.automatic import held_out_share
from posttrain.config.tasks import Compared, Measured
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.split import hash_of, held_out, prompt_key
from posttrain.errors import DataError
from posttrain.measures.shares import Estimate
from posttrain.measures.texts import Rules, extracted, measured, tokenizer_for
from posttrain.models.load import context_length
from posttrain.recipes.load import sampler_cache
from posttrain.recipes.opening import Door
from posttrain.rollout.sampler import MAX_SLOTS
from posttrain.types import ChatRecord, Completion, Prompt, PromptRecord, Record, Sampler, SamplingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Prompts with what their answers are compared with: `references` of each prompt, at least one.

    `places` are theirs among the prompts that they were chosen from.
    """

    prompts: list[Prompt]
    places: list[int]
    references: list[tuple[str, ...]]
    rules: Rules

    def cache(self, model: PreTrainedModel, room: int) -> int:
        """Bytes that the sampler of this model keeps of answers of up to `room` tokens."""
        longest = max((len(prompt.tokens) for prompt in self.prompts), default=0)
        longest = min(longest + room, context_length(model.config))
        return sampler_cache(model, min(MAX_SLOTS, len(self.prompts)), longest)


def asked(chat: ChatRecord) -> PromptRecord:
    """What a conversation asks last, with the answer that it has as the column `reference`."""
    return PromptRecord(id=chat.id, messages=chat.messages[:-1], columns={"reference": chat.messages[-1].content})


def references_of(record: PromptRecord) -> tuple[str, ...]:
    """The texts of the column `reference`, which is one or a list of them; none where it is something else."""
    column = record.columns.get("reference")
    texts = column if isinstance(column, list) else [column]
    return tuple(text for text in texts if isinstance(text, str) and text.strip())


def comparable(prompts: Sequence[Prompt], config: Compared, console: Console, *, source: str) -> Questions:
    """The prompts with a reference to compare with; says why others are left out, and by which rules is compared.

    Raises DataError when `answer_after` stands in no reference.
    """
    places: list[int] = []
    references: list[tuple[str, ...]] = []
    lost: Counter[str] = Counter()
    for place, prompt in enumerate(prompts):
        texts = references_of(prompt.record)
        found = tuple(text for text in texts if extracted(text, config.answer_after))
        if found:
            places.append(place)
            references.append(found)
        else:
            lost["without a reference" if not texts else f"whose reference lacks {config.answer_after!r}"] += 1
    for why, count in lost.items():
        console.say(f"{source}: {counted(count, 'row')} {why}, not measured")
    if not places and config.answer_after is not None:
        what = f"no reference holds answer_after {config.answer_after!r}, so no answer can be compared"
        raise DataError(f"{what}\n  fix: check its spelling, or take answer_after out")
    return Questions(
        prompts=[prompts[place] for place in places],
        places=places,
        references=references,
        rules=_rules(config, references, console),
    )


def _rules(config: Compared, references: Sequence[tuple[str, ...]], console: Console) -> Rules:
    """How answers are compared; says what an automatic tokenizer came to."""
    tokenizer = "13a" if config.bleu_tokenizer == "auto" else config.bleu_tokenizer
    if config.bleu_tokenizer == "auto" and "bleu" in config.measures and references:
        tokenizer, reason = tokenizer_for([text for texts in references for text in texts])
        console.choose("bleu_tokenizer", tokenizer, reason)
    return Rules(after=config.answer_after, normalize=config.normalize, tokenizer=tokenizer)


def compared(config: Compared, answers: Sequence[Completion], questions: Questions) -> dict[str, Estimate]:
    """The measures of one answer to each question, in order; none for no questions."""
    if not answers:
        return {}
    return measured(config.measures, [answer.text for answer in answers], questions.references, questions.rules)


# --- while a run goes on --------------------------------------------------------------------------------------------


def held_questions(config: SFTConfig, door: Door) -> Questions | None:
    """Conversations that the run holds out, as questions: all of them, or `measure_rows` drawn by the seed.

    None where nothing is measured. Raises DataError when no conversation is held out, or none can be answered.
    """
    if not config.measures:
        return None
    chosen = heapq.nsmallest(
        config.measure_rows,
        ((hash_of((config.seed, chat.id)), place, chat) for place, chat in enumerate(_held(config, door))),
    )
    records = [asked(chat) for _, _, chat in sorted(chosen, key=lambda item: item[1])]
    prompts = [prompt for prompt in door.codec.prompts(records) if len(prompt.tokens) < door.limit]
    if len(prompts) < len(records):
        left = counted(len(records) - len(prompts), "conversation", "leave")
        door.console.say(f"measures: {left} no room for an answer within {door.limit:,} tokens, not measured")
    if not prompts:
        what = f"measures need held-out conversations, and eval_data {config.eval_data} holds none that can be answered"
        raise DataError(f"{what}\n  fix: hold out more, give a file of conversations, or take measures out")
    questions = comparable(prompts, config, door.console, source="measures")
    how = "all of the text" if config.answer_after is None else f"what follows {config.answer_after!r}"
    door.console.say(
        f"measures: {', '.join(config.measures)} of {counted(len(questions.prompts), 'conversation')} held out, "
        f"greedy answers of up to {counted(config.max_new_tokens, 'token')}; compared is {how}"
        + (f", exact_match by {config.normalize}" if "exact_match" in config.measures else "")
    )
    return questions


def _held(config: SFTConfig, door: Door) -> Iterator[ChatRecord]:
    """The conversations that are held out, in the order of their sources."""
    for source in door.held:
        yield from _chats(source.reading)
    share = held_out_share(config.eval_data)
    if share is not None:
        for source in door.data:
            for chat in _chats(source.reading):
                if held_out(np.array([prompt_key(chat)], np.uint64), share, config.seed)[0]:
                    yield chat


def _chats(records: Iterable[Record]) -> Iterator[ChatRecord]:
    return (record for record in records if isinstance(record, ChatRecord))


class Evaluation:
    """What a run measures of its model as it stands: the numbers of `loss` and, where it has `questions`, of answers.

    `answers` samples greedily. The latest results are kept, so that the end of a run need not measure twice.
    """

    def __init__(
        self,
        config: Measured,
        loss: Callable[[], Mapping[str, float]],
        questions: Questions | None,
        answers: Sampler,
    ) -> None:
        self._config = config
        self._loss = loss
        self._questions = questions
        self._answers = answers
        self._latest: dict[str, float | Estimate] = {}

    def __call__(self) -> dict[str, float]:
        """The numbers alone, for the metrics of a step."""
        self._latest = {**self._loss(), **self._measured()}
        return {name: found.value if isinstance(found, Estimate) else found for name, found in self._latest.items()}

    def _measured(self) -> dict[str, Estimate]:
        if self._questions is None:
            return {}
        spec = SamplingSpec(max_new_tokens=self._config.max_new_tokens, temperature=0.0)
        return compared(self._config, self._answers(self._questions.prompts, spec), self._questions)

    def results(self) -> dict[str, object]:
        """The latest results under the names of metrics, with intervals; measured now where nothing was yet."""
        if not self._latest:
            self()
        return {
            f"eval_{name}": found.facts() if isinstance(found, Estimate) else found
            for name, found in self._latest.items()
        }
