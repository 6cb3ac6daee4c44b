"""Rows to conversations, texts and prompts: one function for each accepted layout."""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.data.messages import (
    PROMPT_KEYS,
    BadRow,
    Messages,
    asked_by_user,
    instruction_of,
    kind_of,
    messages_of,
    prompt_of,
    text_of,
    with_system,
)
from posttrain.data.rows import Row
from posttrain.types import JSON, ChatRecord, Message, PromptRecord, TextRecord


def chat(id: str, messages: Messages, where: str) -> ChatRecord:
    """A conversation, once it is seen to end with an answer to something and to train some of it."""
    if messages[-1].role != "assistant":
        what = f"{where}[-1].role is {messages[-1].role!r}, expected 'assistant'"
        raise BadRow(what, "let the conversation end with an answer, or delete its last message")
    if len(messages) == 1:
        raise BadRow(f"{where} has an answer but no question", "put the user's message before it")
    if all(message.train is False for message in messages if message.role == "assistant"):
        raise BadRow(f"{where} has no message that is trained", 'take "train": false from one of the answers')
    return ChatRecord(id=id, messages=messages)


def conversation(row: Row, id: str) -> list[ChatRecord]:
    """`messages` or sharegpt's `conversations`."""
    key = "messages" if "messages" in row else "conversations"
    return [chat(id, with_system(row, messages_of(row.get(key), key)), key)]


def alpaca(row: Row, id: str) -> list[ChatRecord]:
    """`instruction`, an optional `input`, and `output` or `response`."""
    key = "output" if "output" in row else "response"
    asked, _ = prompt_of({name: row.get(name) for name in ("instruction", "input", "system")})
    return [ChatRecord(id=id, messages=(*asked, Message(role="assistant", content=text_of(row.get(key), key))))]


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
    return [
        ChatRecord(
            id=id, messages=(*asked_by_user(asked, keys[0]), Message(role="assistant", content=text_of(reply, answer)))
        )
    ]


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
    return {name: value for name, value in row.items() if name not in keys and name != "id"}
