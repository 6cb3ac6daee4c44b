"""What stands in a row: texts, messages, questions and answers, each checked where it is read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeAlias, cast

from posttrain.data.rows import Row
from posttrain.types import JSON, Message, Role

Messages: TypeAlias = tuple[Message, ...]

ROLES: Mapping[str, Role] = {role: role for role in ("system", "user", "assistant", "tool")}
SHAREGPT_ROLES: Mapping[str, Role] = {
    **ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function_call": "assistant",
}
PROMPT_KEYS = ("prompt", "messages", "conversations", "question", "instruction")

_OTHER_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system"}


class BadRow(ValueError):
    """A row that cannot be used: what is wrong with it, and how to mend it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


def text_of(value: JSON, where: str) -> str:
    """`value` as text that is not empty; a list of text parts, as multimodal chats have it, is joined."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(part, dict) and part.get("type") == "text" for part in value)
    ):
        value = "".join(str(cast(Row, part).get("text", "")) for part in value)
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"{where} is empty", "fill it, or delete the row")
    if not isinstance(value, str):
        raise BadRow(f"{where} is {kind_of(value)}, expected text", "write it as a string")
    return value


def messages_of(value: JSON, where: str) -> Messages:
    """`value` as messages: objects with role and content, or with from and value."""
    if not isinstance(value, list) or not value:
        raise BadRow(
            f"{where} is {kind_of(value)}, expected a list of messages", 'write [{"role": "user", "content": …}, …]'
        )
    return tuple(_message(item, f"{where}[{place}]") for place, item in enumerate(value))


def _message(value: JSON, where: str) -> Message:
    if not isinstance(value, dict):
        raise BadRow(f"{where} is {kind_of(value)}, expected a message", 'write {"role": "user", "content": …}')
    sharegpt = "from" in value and "role" not in value
    role_key, content_key, roles = ("from", "value", SHAREGPT_ROLES) if sharegpt else ("role", "content", ROLES)
    name = value.get(role_key)
    if not isinstance(name, str) or name not in roles:
        raise _unknown_role(name, f"{where}.{role_key}", roles)
    train = value.get("train")
    if train is not None and not isinstance(train, bool):
        raise BadRow(f"{where}.train is {kind_of(train)}, expected true or false", "write it without quotes")
    return Message(role=roles[name], content=text_of(value.get(content_key), f"{where}.{content_key}"), train=train)


def _unknown_role(name: JSON, where: str, roles: Mapping[str, Role]) -> BadRow:
    if name is None:
        return BadRow(f"{where} is missing", f"give one of {', '.join(roles)}")
    shown = repr(name)
    near = difflib.get_close_matches(str(name), roles, n=1, cutoff=0.5)
    meant = _OTHER_NAMES.get(str(name), near[0] if near else None)
    fix = f"did you mean {meant!r}?" if meant else f"give one of {', '.join(roles)}"
    return BadRow(f"{where} is {shown}, which is no role", fix)


def answer_of(value: JSON, where: str) -> str:
    """`value` as an answer: text, or one message by the assistant."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or (value and isinstance(value[0], dict) and value[0].get("type") == "text"):
        return text_of(value, where)
    messages = messages_of(value, where)
    if len(messages) != 1:
        raise BadRow(f"{where} has {len(messages)} messages, expected one answer", "give the answer alone")
    return by_assistant(messages, where)


def prompt_of(row: Row) -> tuple[Messages, tuple[str, ...]]:
    """The question of a row as messages, and the keys that made it. An answer at the end of `messages` stays there."""
    for key in ("prompt", "messages", "conversations", "question"):
        if row.get(key) is not None:
            value = row[key]
            asked = (
                (Message(role="user", content=text_of(value, key)),)
                if isinstance(value, str)
                else messages_of(value, key)
            )
            return with_system(row, asked), (key, "system")
    if row.get("instruction") is not None:
        return with_system(row, (instruction_of(row["instruction"], row.get("input")),)), (
            "instruction",
            "input",
            "system",
        )
    raise BadRow("the row has no prompt", f"add one of {', '.join(PROMPT_KEYS)}")


def with_system(row: Row, messages: Messages) -> Messages:
    """`messages` after the row's `system` text, where it has one and they do not."""
    system = row.get("system")
    if not isinstance(system, str) or not system.strip() or messages[0].role == "system":
        return messages
    return (Message(role="system", content=system), *messages)


def instruction_of(instruction: JSON, extra: JSON) -> Message:
    """The user's message that an instruction and its optional input make."""
    asked = text_of(instruction, "instruction")
    given = isinstance(extra, str) and extra.strip()
    return Message(role="user", content=f"{asked}\n\n{extra}" if given else asked)


def asked_by_user(messages: Messages, where: str = "prompt") -> Messages:
    """`messages`, which wait for an answer."""
    if messages[-1].role == "assistant":
        raise BadRow(f"{where} ends with the assistant, expected the user", "move the answer out of the prompt")
    return messages


def by_assistant(messages: Messages, where: str) -> str:
    """The answer that `messages` end with."""
    if messages[-1].role != "assistant":
        raise BadRow(
            f"{where}[-1].role is {messages[-1].role!r}, expected 'assistant'",
            f'change the role, or give plain text: "{where}": "No."',
        )
    return messages[-1].content


def kind_of(value: JSON) -> str:
    """What `value` is, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return "a number"
    return {str: "text", list: "a list", dict: "an object"}[type(value)]
