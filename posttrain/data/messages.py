"""What stands in a row: texts, messages, questions and answers, each checked where it is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

from posttrain.data.json_rows import Row
from posttrain.records import JSON, Message, Role

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
_NOT_CONTENT = ("tool_calls", "function_call", "reasoning_content")
_LONGEST_NAME = 60
_SPEAKERS: tuple[Role, Role] = ("user", "assistant")
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


class BadRow(ValueError):
    """A row that cannot be used: what is wrong with it, and how to mend it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


# --- text and messages ------------------------------------------------------------------------------------------


def text_of(value: JSON, where: str) -> str:
    """`value` as text that is not empty; a list of text parts, as multimodal chats have it, is joined."""
    if type(value) is str and value and not value.isspace():
        return value
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        return text_of(_joined(cast("list[Row]", value), where), where)
    if value is None:
        raise BadRow(f"{where} is null", "fill it, or delete the row")
    if value == "" or isinstance(value, str):
        raise BadRow(f"{where} is empty", "fill it, or delete the row")
    raise BadRow(f"{where} is {kind_of(value)}{_shown(value)}, expected text", "write it as a string, in quotes")


def _joined(parts: list[Row], where: str) -> str:
    other = next((part.get("type") for part in parts if part.get("type") != "text"), None)
    if other is not None:
        raise BadRow(f"{where} has a part of type {other!r}, and only text is read", "delete the row")
    return "".join(str(part.get("text", "")) for part in parts)


def messages_of(value: JSON, where: str) -> Messages:
    """`value` as messages: objects with role and content, or with from and value.

    An empty system message is no message: many data sets write one in every conversation that has none.
    """
    if not isinstance(value, list) or not value:
        empty = isinstance(value, list)
        what = f"{where} is empty" if empty else f"{where} is {kind_of(value)}, expected a list of messages"
        raise BadRow(what, 'write [{"role": "user", "content": …}, …]')
    found = [_plain_message(item) or _message(item, f"{where}[{place}]") for place, item in enumerate(value)]
    kept = tuple(message for message in found if message is not None)
    if not kept:
        raise BadRow(f"{where} holds nothing but an empty system message", "fill it, or delete the row")
    return kept


def _plain_message(value: JSON) -> Message | None:
    """The common case of a message in one step: a known role and text, and nothing else."""
    if type(value) is not dict or len(value) != 2:
        return None
    role, content = value.get("role"), value.get("content")
    if type(content) is not str or not content or content.isspace() or type(role) is not str or role not in ROLES:
        return None
    return Message(role=ROLES[role], content=content)


def _message(value: JSON, where: str) -> Message | None:
    """A message, None for an empty one by the system."""
    if not isinstance(value, dict):
        raise BadRow(f"{where} is {kind_of(value)}, expected a message", 'write {"role": "user", "content": …}')
    sharegpt = "from" in value and "role" not in value
    role_key, content_key, roles = ("from", "value", SHAREGPT_ROLES) if sharegpt else ("role", "content", ROLES)
    name = value.get(role_key)
    if not isinstance(name, str) or name not in roles:
        raise _unknown_role(value, f"{where}.{role_key}", roles)
    beside = next((key for key in _NOT_CONTENT if value.get(key)), None)
    if beside is not None:
        what = f"{where}.{beside} would be left out: only the text in {content_key} is trained"
        raise BadRow(what, f"write it into {content_key} as the model should spell it, or delete the row")
    if content_key not in value:
        raise BadRow(f"{where}.{content_key} is missing (keys: {with_typos(value, (content_key,))})", "add it")
    content = value[content_key]
    if roles[name] == "system" and (content is None or (isinstance(content, str) and not content.strip())):
        return None
    return Message(role=roles[name], content=text_of(content, f"{where}.{content_key}"), train=_train(value, where))


def _train(message: Row, where: str) -> bool | None:
    """The message's own `train`, or what OpenAI's `weight` of 0 says."""
    train = message.get("train")
    if train is not None and not isinstance(train, bool):
        raise BadRow(f"{where}.train is {kind_of(train)}, expected true or false", "write it without quotes")
    return False if train is None and message.get("weight") == 0 else train


def _unknown_role(message: Row, where: str, roles: Mapping[str, Role]) -> BadRow:
    name = message.get(where.rsplit(".", 1)[1])
    if name is None:
        keys = with_typos(message, ("role", "content", "from", "value"))
        return BadRow(f"{where} is missing (keys: {keys})", f"give one of {', '.join(roles)}")
    near = difflib.get_close_matches(str(name)[:60].lower(), roles, n=1, cutoff=0.5)
    meant = _OTHER_NAMES.get(str(name).lower(), near[0] if near else None)
    fix = f"did you mean {meant!r}?" if meant else f"give one of {', '.join(roles)}"
    return BadRow(f"{where} is {name!r:.60}, which is no role", fix)


def dialogue(value: str, where: str) -> Messages:
    """A transcript of `Human:` and `Assistant:` turns (Bai 2022, HH); an empty last turn waits for its answer."""
    pieces = _HH_TURN.split(value)
    if len(pieces) < 3 or pieces[0].strip():
        raise BadRow(f"{where} stands without a prompt", 'add a "prompt" column, or write it as a list of messages')
    turns = list(zip(pieces[1::2], pieces[2::2], strict=True))
    spoken = [Message(role="user" if who == "Human" else "assistant", content=said.strip()) for who, said in turns]
    empty = next((place for place, message in enumerate(spoken) if not message.content), None)
    if empty is not None:
        raise BadRow(f"{where}: turn {empty + 1} of the dialogue is empty", "fill it, or delete the row")
    return tuple(spoken)


# --- questions and answers --------------------------------------------------------------------------------------


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
        value = row.get(key)
        if value is not None:
            return with_system(row, _asked(value, key)), (key, "system")
    if row.get("instruction") is not None:
        return instructed(row), ("instruction", "input", "system", "history")
    raise BadRow("the row has no prompt", f"add one of {', '.join(PROMPT_KEYS)}")


def _asked(value: JSON, key: str) -> Messages:
    if type(value) is str:
        if value.startswith("\n\nHuman:") and value.rstrip().endswith("\n\nAssistant:"):
            return dialogue(value.rstrip().removesuffix("\n\nAssistant:"), key)
        return (Message(role="user", content=text_of(value, key)),)
    if isinstance(value, list):
        return messages_of(value, key)
    raise BadRow(f"{key} is {kind_of(value)}{_shown(value)}, expected text or messages", "write it as a string")


def instructed(row: Row) -> Messages:
    """alpaca's question: the instruction with its input, after the turns of LLaMA-Factory's `history`."""
    turns = row.get("history") or []
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise BadRow("history is no list of question and answer", 'write [["…", "…"], …]')
    before = [
        Message(role=role, content=text_of(said, f"history[{place}]"))
        for place, turn in enumerate(cast("list[list[JSON]]", turns))
        for role, said in zip(_SPEAKERS, turn, strict=True)
    ]
    return with_system(row, (*before, instruction_of(row.get("instruction"), row.get("input"))))


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
    last = messages[-1].role
    if last == "assistant":
        raise BadRow(f"{where} ends with the assistant, expected the user", "move the answer out of the prompt")
    if last == "system":
        raise BadRow(f"{where} ends with the system, expected the user", "add the user's message")
    return messages


def by_assistant(messages: Messages, where: str) -> str:
    """The answer that `messages` end with."""
    if messages[-1].role != "assistant":
        what = f"{where}[-1].role is {messages[-1].role!r}, expected 'assistant'"
        raise BadRow(what, f'change the role, or give plain text: "{where}": "No."')
    return messages[-1].content


# --- words for messages -----------------------------------------------------------------------------------------


def kind_of(value: JSON) -> str:
    """What `value` is, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return "a number"
    return {str: "text", list: "a list", dict: "an object"}[type(value)]


def _shown(value: JSON) -> str:
    """A number beside its name; other values are left to the file."""
    return f" ({value})" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def with_typos(keys: Iterable[str], wanted: Iterable[str], limit: int = 12) -> str:
    """`keys` in a line, with a mark at those that look like a slip of one of `wanted`."""
    names = list(keys)
    absent = [name for name in wanted if name not in names]
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names[:limit]]
    marked = [f"{name} ← typo?" if difflib.get_close_matches(name, absent, n=1, cutoff=0.7) else name for name in shown]
    return ", ".join(marked) + (f" and {len(names) - limit} more" if len(names) > limit else "")
