"""Rows to conversations, texts and prompts: one function for each accepted layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from posttrain.data.json_rows import Row
from posttrain.data.messages import (
    PROMPT_KEYS,
    BadRow,
    Messages,
    asked_by_user,
    instructed,
    instruction_of,
    kind_of,
    messages_of,
    prompt_of,
    text_of,
    with_system,
)
from posttrain.records import JSON, ChatRecord, Message, PromptRecord, TextRecord

_EXACT = 2.0**63


def chat(id: str, messages: Messages, where: str) -> ChatRecord:
    """A conversation, once it is seen to end with an answer, to train some of it, and that every answer has a question.

    An answer that is trained stands after a message by the user or a tool, because it is there that a model is asked.
    One after another answer, or before any question, can be kept as context by `"train": false`.
    """
    if messages[-1].role != "assistant":
        what = f"{where}[-1].role is {messages[-1].role!r}, expected 'assistant'"
        raise BadRow(what, "let the conversation end with an answer, or delete its last message")
    if len(messages) == 1:
        raise BadRow(f"{where} has an answer but no question", "put the user's message before it")
    before, trained = "", False
    for place, message in enumerate(messages):
        role = message.role
        if role == "assistant" and message.train is not False:
            if before not in ("user", "tool"):
                raise _unasked(where, place, before)
            trained = True
        before = role
    if not trained:
        raise BadRow(f"{where} has no message that is trained", 'take "train": false from one of the answers')
    return ChatRecord(id=id, messages=messages)


def _unasked(where: str, place: int, before: str) -> BadRow:
    if before == "assistant":
        what = f"{where}[{place - 1}] and {where}[{place}] are both by the assistant"
        return BadRow(what, "join them into one, or put the user's message between them")
    what = f"{where}[{place}] is by the assistant, and nothing is asked before it"
    return BadRow(what, 'put the user\'s message before it, or set "train": false in it')


def conversation(row: Row, id: str, *, key: str) -> list[ChatRecord]:
    """`messages` or sharegpt's `conversations`."""
    record = chat(id, messages_of(row.get(key), key), key)
    system = row.get("system")
    return [record if system is None else replace(record, messages=with_system(row, record.messages))]


def alpaca(row: Row, id: str, *, answer: str) -> list[ChatRecord]:
    """`instruction`, an optional `input` and `history`, and an answer."""
    reply = Message(role="assistant", content=text_of(row.get(answer), answer))
    return [ChatRecord(id=id, messages=(*instructed(row), reply))]


def instances(row: Row, id: str) -> list[ChatRecord]:
    """self-instruct: an `instruction` and `instances` of input and output, each a conversation."""
    items = row.get("instances")
    if not isinstance(items, list) or not items:
        raise BadRow("instances is empty", 'write [{"input": …, "output": …}]')
    records: list[ChatRecord] = []
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            raise BadRow(
                f"instances[{place}] is {kind_of(item)}, expected an object", 'write {"input": …, "output": …}'
            )
        answer = Message(role="assistant", content=text_of(item.get("output"), f"instances[{place}].output"))
        name = id if len(items) == 1 else f"{id}/{place + 1}"
        records.append(
            ChatRecord(id=name, messages=(instruction_of(row.get("instruction"), item.get("input")), answer))
        )
    return records


def answered(row: Row, id: str, *, answer: str) -> list[ChatRecord]:
    """A question and its answer in two columns."""
    asked, keys = prompt_of(row)
    reply = row.get(answer)
    if isinstance(reply, list):
        return [chat(id, (*asked, *messages_of(reply, answer)), answer)]
    said = Message(role="assistant", content=text_of(reply, answer))
    return [ChatRecord(id=id, messages=(*asked_by_user(asked, keys[0]), said))]


def running_text(row: Row, id: str) -> list[TextRecord]:
    """`text`."""
    return [TextRecord(id=id, text=text_of(row.get("text"), "text"))]


# --- prompts ----------------------------------------------------------------------------------------------------


def prompt(row: Row, id: str) -> list[PromptRecord]:
    """What is asked, in any layout of this package; a final answer is taken off and kept as the column `reference`.

    Every column that is not part of the question is kept for rewards and measures. `{"text"}` is text to continue.
    """
    if isinstance(row.get("text"), str) and all(row.get(key) is None for key in PROMPT_KEYS):
        return [PromptRecord(id=id, text=text_of(row["text"], "text"), columns=_without(row, ("text",)))]
    asked, keys = prompt_of(row)
    columns = _without(row, keys)
    if asked[-1].role != "assistant":
        return [PromptRecord(id=id, messages=asked, columns=columns)]
    if len(asked) == 1:
        raise BadRow(f"{keys[0]} has an answer but no question", "put the user's message before it")
    return [PromptRecord(id=id, messages=asked[:-1], columns={"reference": asked[-1].content, **columns})]


def prompt_with_answer(row: Row, id: str, *, answer: str) -> list[PromptRecord]:
    """A question whose answer stands in a column of its own: kept under its name, and as `reference`."""
    asked, keys = prompt_of(row)
    columns = _without(row, keys)
    reference = row.get(answer)
    if isinstance(reference, str) and reference:
        columns = {"reference": reference, **columns}
    return [PromptRecord(id=id, messages=asked_by_user(asked, keys[0]), columns=columns)]


def prompts_of_instances(row: Row, id: str) -> list[PromptRecord]:
    """self-instruct: the question of each instance."""
    columns = _without(row, ("instruction", "instances"))
    return [
        PromptRecord(
            id=record.id, messages=record.messages[:-1], columns={"reference": record.messages[-1].content, **columns}
        )
        for record in instances(row, id)
    ]


def _without(row: Row, keys: tuple[str, ...]) -> Mapping[str, JSON]:
    columns = {name: value for name, value in row.items() if name not in keys and name != "id"}
    for name, value in columns.items():
        # The fast JSON parser rounds whole numbers beyond 64 bits; a reward would compare with another number.
        if type(value) is float and abs(value) >= _EXACT:
            raise BadRow(f"{name} is {value:g}, beyond what is read exactly", "write it as text, in quotes")
    return columns
