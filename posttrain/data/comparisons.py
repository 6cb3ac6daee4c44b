"""Rows to rankings: pairs, ranked lists, orders, scores, dialogues and labelled solutions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeGuard, cast

from posttrain.data.json_rows import Row
from posttrain.data.messages import (
    PROMPT_KEYS,
    BadRow,
    Messages,
    answer_of,
    asked_by_user,
    by_assistant,
    dialogue,
    kind_of,
    messages_of,
    prompt_of,
    text_of,
)
from posttrain.records import JSON, ChatRecord, LabelledRecord, PromptRecord, RankedRecord, Record

LABELS = ("label", "kto_tag", "desirable", "thumbs_up", "thumb", "feedback", "liked")
"""Columns that may say whether an answer was good."""
GOOD = frozenset({"true", "yes", "1", "+1", "good", "up", "thumbs up", "like", "liked", "desirable", "positive", "👍"})
BAD = frozenset(
    {"false", "no", "0", "-1", "bad", "down", "thumbs down", "dislike", "disliked", "undesirable", "negative", "👎"}
)
MOST_RANKED = 9
"""Answers to one prompt that a person can rank at once."""
# A question this long, word for word at the start of both answers, was put there by a script.
_REPEATED = 20


def pair(row: Row, id: str) -> list[RankedRecord]:
    """`chosen` and `rejected`: text or messages, with a prompt or sharing their beginning."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str) and all(row.get(key) is None for key in PROMPT_KEYS):
        return [_shared_prefix(row, id, dialogue(chosen, "chosen"), dialogue(rejected, "rejected"))]
    if isinstance(chosen, list) and isinstance(rejected, list):
        return [_shared_prefix(row, id, messages_of(chosen, "chosen"), messages_of(rejected, "rejected"))]
    asked, keys = prompt_of(row)
    answers = (answer_of(chosen, "chosen"), answer_of(rejected, "rejected"))
    question = asked[-1].content
    if len(question) >= _REPEATED and all(answer.startswith(question) for answer in answers):
        raise BadRow(f"chosen and rejected both begin with {keys[0]}", f"take the text of {keys[0]} out of them")
    return [_ranking(row, id, asked_by_user(asked, keys[0]), answers, (1, 2))]


def _shared_prefix(row: Row, id: str, chosen: Messages, rejected: Messages) -> RankedRecord:
    answers = (by_assistant(chosen, "chosen"), by_assistant(rejected, "rejected"))
    before = chosen[:-1]
    if before != rejected[:-1]:
        raise BadRow(
            "chosen and rejected begin differently, and differ in more than their last message", "use one prompt"
        )
    if any(row.get(key) is not None for key in PROMPT_KEYS):
        asked, _ = prompt_of(row)
        before = before if before[-len(asked) :] == asked else (*asked, *before)
    if not before:
        raise BadRow("chosen and rejected have an answer but no prompt", 'add a "prompt" column')
    return _ranking(row, id, asked_by_user(before), answers, (1, 2))


def with_ranks(row: Row, id: str) -> list[RankedRecord]:
    """`responses` and `ranks`: 1 (or 0) is best, equal is a tie, null is not ranked."""
    answers = _responses(row)
    ranks = _one_each(row.get("ranks"), "ranks", answers)
    places = [_rank(rank, f"ranks[{place}]") for place, rank in enumerate(ranks)]
    return [_list_ranking(row, id, answers, places)]


def with_scores(row: Row, id: str) -> list[RankedRecord]:
    """`responses` and `scores`: higher is better, null is not ranked."""
    answers = _responses(row)
    scores = [_number(score, f"scores[{i}]") for i, score in enumerate(_one_each(row.get("scores"), "scores", answers))]
    return [_list_ranking(row, id, answers, [None if score is None else -score for score in scores])]


def rated(row: Row, id: str) -> list[RankedRecord]:
    """UltraFeedback as it was collected: `completions`, each with its `response` and `overall_score`."""
    items = row.get("completions")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadRow("completions is no list of objects", 'write [{"response": …, "overall_score": …}, …]')
    rated = cast("list[Row]", items)
    answers = _responses({**row, "responses": [item.get("response") for item in rated]})
    scores = [_number(item.get("overall_score"), f"completions[{i}].overall_score") for i, item in enumerate(rated)]
    return [_list_ranking(row, id, answers, [None if score is None else -score for score in scores])]


def with_order(row: Row, id: str) -> list[RankedRecord]:
    """`responses` and `order`: their places counted from 0, best first, ties in a list of their own."""
    answers = _responses(row)
    order = row.get("order")
    if not isinstance(order, list):
        raise BadRow(f"order is {kind_of(order)}, expected a list", "write [2, 0, [1, 3]]: best first, ties together")
    ranks: list[float | None] = [None] * len(answers)
    for tier, places in enumerate(order):
        for place in places if isinstance(places, list) else [places]:
            if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(answers):
                what = (
                    f"order[{tier}] is {place!r}, but the {len(answers)} responses are counted 0 to {len(answers) - 1}"
                )
                raise BadRow(what, "give the places of responses, from 0")
            if ranks[place] is not None:
                raise BadRow(f"order names response {place} twice", "name each response once")
            ranks[place] = tier
    return [_list_ranking(row, id, answers, ranks)]


def solutions(row: Row, id: str) -> list[RankedRecord]:
    """A question with solutions labelled `is_correct`: the correct ones tie above the others."""
    asked, keys = prompt_of(row)
    labelled = [item for item in row.values() if is_solution(item)]
    answers = tuple(text_of(item.get("solution"), "solution") for item in labelled)
    return [
        _ranking(row, id, asked_by_user(asked, keys[0]), answers, [1 if item["is_correct"] else 2 for item in labelled])
    ]


def tied(row: Row, id: str) -> list[RankedRecord]:
    """`responses` alone, as if all were equal."""
    answers = _responses(row)
    return [_list_ranking(row, id, answers, [1] * len(answers))]


def tied_completions(row: Row, id: str) -> list[RankedRecord]:
    """UltraFeedback's `completions` without their scores."""
    items = row.get("completions")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadRow("completions is no list of objects", 'write [{"response": …}, …]')
    return tied({**row, "responses": [item.get("response") for item in cast("list[Row]", items)]}, id)


def unranked(row: Row, id: str, *, ranked: Callable[[Row, str], Sequence[RankedRecord]]) -> list[RankedRecord]:
    """What `ranked` reads, without its ranks: answers that people are to rank, of which nine fit beside each other."""
    records = ranked(row, id)
    for record in records:
        if len(record.responses) > MOST_RANKED:
            what = f"{len(record.responses)} answers, and at most {MOST_RANKED} can be ranked at once"
            raise BadRow(what, "give fewer, or write several rows")
    return [
        replace(record, ranks=(None,) * len(record.responses), weight=1.0, margin=None, annotator=None)
        for record in records
    ]


def prompt(row: Row, id: str) -> list[PromptRecord]:
    """What the answers of a pair answer, with the better one as the column `reference`."""
    [ranking] = pair(row, id)
    columns = {name: value for name, value in row.items() if name not in ("id", "prompt")}
    return [PromptRecord(id=id, messages=ranking.prompt, columns={"reference": ranking.responses[0], **columns})]


def labelled(
    row: Row, id: str, *, conversation: Callable[[Row, str], Sequence[Record]], key: str
) -> list[LabelledRecord]:
    """An answer, the last of a conversation, and in the column `key` whether it was good."""
    if not is_label(row.get(key)):
        what = f"{key} is {json.dumps(row.get(key), ensure_ascii=False)}, which says neither good nor bad"
        raise BadRow(what, "write true or false, or delete the row")
    weight, annotator = _number(row.get("weight"), "weight"), row.get("annotator")
    if weight is not None and weight < 0:
        raise BadRow(f"weight is {weight:g}, expected 0 or more", f"turn {key} round instead")
    [talk] = conversation(row, id)
    messages = cast("ChatRecord", talk).messages
    answer = messages[-1].content
    return [
        LabelledRecord(
            id=id,
            prompt=messages[:-1],
            responses=(answer,),
            labels=(_label(row.get(key)),),
            stopped=_ended(row),
            weight=1.0 if weight is None else weight,
            annotator=None if annotator is None or annotator == "" else str(annotator),
        )
    ]


def _ended(row: Row) -> tuple[bool] | None:
    """Whether the answer ended by itself, where the row says it."""
    value = row.get("stopped")
    if value is None or value == "":
        return None
    if not isinstance(value, bool):
        raise BadRow("stopped is neither true nor false", "say whether the answer ended by itself, or leave it out")
    return (value,)


def is_label(value: JSON) -> bool:
    """Whether `value` says that an answer was good or bad."""
    if isinstance(value, str):
        return _word(value) in GOOD | BAD
    return isinstance(value, bool) or (isinstance(value, int | float) and value in (-1, 0, 1))


def _label(value: JSON) -> bool:
    return _word(value) in GOOD if isinstance(value, str) else value is True or value == 1


def _word(text: str) -> str:
    return re.sub(r"[\s_]+|(?<=[a-z])-(?=[a-z])", " ", text).strip().casefold()


def is_solution(value: JSON) -> TypeGuard[Row]:
    """Whether `value` is a solution with its label."""
    return isinstance(value, dict) and isinstance(value.get("is_correct"), bool) and "solution" in value


# --- inside -----------------------------------------------------------------------------------------------------


def _responses(row: Row) -> tuple[str, ...]:
    responses = row.get("responses")
    if not isinstance(responses, list):
        raise BadRow(f"responses is {kind_of(responses)}, expected a list", 'write ["…", "…"]')
    if len(responses) < 2:
        raise BadRow(f"responses has {len(responses)}, expected at least 2", "give more answers, or delete the row")
    sampled = isinstance(row.get("stopped"), list)
    # A model may end at once: among sampled answers an empty one is an answer, elsewhere it is a slip.
    return tuple(
        "" if sampled and response == "" else answer_of(response, f"responses[{place}]")
        for place, response in enumerate(responses)
    )


def _one_each(value: JSON, where: str, answers: tuple[str, ...]) -> list[JSON]:
    if not isinstance(value, list):
        raise BadRow(f"{where} is {kind_of(value)}, expected a list", "give one for each response")
    if len(value) != len(answers):
        raise BadRow(
            f"{len(answers)} responses but {len(value)} {where}", "give one for each response; null is not ranked"
        )
    return value


def _rank(value: JSON, where: str) -> int | None:
    number = _number(value, where)
    if number is not None and (number < 0 or number != int(number)):
        raise BadRow(
            f"{where} is {value}, expected a whole number from 1", "1 is best, equal is a tie, null is not ranked"
        )
    return None if number is None else int(number)


def _number(value: JSON, where: str) -> float | None:
    """`value` as a number, text that spells one included, since CSV holds nothing else; None for null and nothing."""
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    except OverflowError:  # a whole number of 309 digits or more
        number = math.inf
    if number is None:
        raise BadRow(f"{where} is {json.dumps(value, ensure_ascii=False)}, expected a number", "give a number, or null")
    if not math.isfinite(number):
        raise BadRow(f"{where} is {number}, which ranks nothing", "write null for what is not ranked")
    return number


def _list_ranking(row: Row, id: str, answers: tuple[str, ...], ranks: Sequence[float | None]) -> RankedRecord:
    given = [rank for rank in ranks if rank is not None]
    if len(given) < 2:
        raise BadRow(
            f"{len(given)} of {len(answers)} responses ranked, expected at least 2", "rank more, or delete the row"
        )
    asked, keys = prompt_of(row)
    tiers = {rank: tier for tier, rank in enumerate(sorted(set(given)), start=1)}
    dense = [None if rank is None else tiers[rank] for rank in ranks]
    return _ranking(row, id, asked_by_user(asked, keys[0]), answers, dense)


def _ranking(
    row: Row, id: str, prompt: Messages, answers: tuple[str, ...], ranks: Sequence[int | None]
) -> RankedRecord:
    _no_twins(answers, ranks)
    weight, margin, annotator = (
        _number(row.get("weight"), "weight"),
        _number(row.get("margin"), "margin"),
        row.get("annotator"),
    )
    if weight is not None and weight < 0:
        raise BadRow(f"weight is {weight:g}, expected 0 or more", "exchange chosen and rejected instead")
    return RankedRecord(
        id=id,
        prompt=prompt,
        responses=answers,
        ranks=tuple(ranks),
        stopped=_stopped(row, answers),
        weight=1.0 if weight is None else weight,
        margin=margin,
        annotator=None if annotator is None or annotator == "" else str(annotator),
    )


def _stopped(row: Row, answers: tuple[str, ...]) -> tuple[bool, ...] | None:
    """Which answers ended by themselves, as `sample` writes it; None where the row does not say."""
    value = row.get("stopped")
    if value is None or value == "":
        return None
    stopped = [item for item in _one_each(value, "stopped", answers) if isinstance(item, bool)]
    if len(stopped) != len(answers):
        raise BadRow("stopped holds something other than true and false", "say for each response whether it ended")
    return tuple(stopped)


def _no_twins(answers: tuple[str, ...], ranks: Sequence[int | None]) -> None:
    """Raises BadRow when one text stands in two ranks."""
    seen: dict[str, int] = {}
    for place, (answer, rank) in enumerate(zip(answers, ranks, strict=True)):
        first = seen.setdefault(answer, place)
        if rank is not None and ranks[first] is not None and rank != ranks[first]:
            if len(answers) == 2:
                raise BadRow("both answers are the same text", "delete the row, or give two different answers")
            raise BadRow(
                f"responses {first} and {place} are the same text in different ranks", "rank them equal, or drop one"
            )
