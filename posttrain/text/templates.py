"""Chat templates: the built-in ones for models that have none, and dates that stand still."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence

from posttrain.errors import ModelError

PLAIN = "plain"
NOTES = "notes"
FROZEN_DATE = datetime.date(2024, 7, 26)
"""The day that a template's "today" is, in training and in the saved template alike: the default of Llama 3's own."""

_PLAIN_MARKERS = (
    ("System", "User", "Assistant", "Tool"),
    ("S", "Q", "A", "T"),
)
_MARKER_BUDGET = 8
"""Tokens that `User:` and `Assistant:` may cost together before the short markers are taken."""

_DATE_CALL = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>.*?)(?P=quote)\s*\)")


def freeze_dates(template: str, date: datetime.date = FROZEN_DATE) -> str:
    """`template` with every `strftime_now("…")` replaced by `date` in that format.

    The saved template then renders on any day what it rendered in training.
    """
    return _DATE_CALL.sub(lambda call: repr(date.strftime(call["format"])), template)


def plain_template(encode: Callable[[str], Sequence[int]], *, unknown: int | None, has_bos: bool) -> str:
    """`User: …⏎Assistant: …<end of text>` in jinja, or `Q: …⏎A: …` where the long markers are dear to spell.

    The prompt ends in a colon and the answer begins with a space, so that a first word has the form it has in running
    text. Raises ModelError when the vocabulary can spell neither pair of markers.
    """
    for markers in _PLAIN_MARKERS:
        tokens = [encode(f"{marker}:") for marker in markers[1:3]]
        spelt = unknown is None or not any(unknown in ids for ids in (*tokens, encode("\n")))
        if spelt and (sum(map(len, tokens)) <= _MARKER_BUDGET or markers == _PLAIN_MARKERS[-1]):
            return _turns(*markers, before="", colon=": ", answer=": ", has_bos=has_bos)
    raise ModelError(
        "the tokenizer has no chat template, and its vocabulary cannot spell the built-in one (Q:, A:, line breaks)\n"
        "  fix: put a chat_template.jinja that it can spell beside tokenizer.json"
    )


def notes_template(*, has_bos: bool) -> str:
    """`### 人类:…⏎### 助手:…<end of text>` in jinja: the form of the lecture notes."""
    return _turns("系统", "人类", "助手", "工具", before="### ", colon=":", answer=":", has_bos=has_bos)


def _turns(
    system: str, user: str, assistant: str, tool: str, *, before: str, colon: str, answer: str, has_bos: bool
) -> str:
    names = f"{{'system': '{system}', 'user': '{user}', 'tool': '{tool}'}}"
    return (
        ("{{- bos_token -}}" if has_bos else "")
        + f"{{%- set names = {names} -%}}"
        + "{%- for message in messages -%}"
        + "{%- if message['role'] == 'assistant' -%}"
        + f"{{{{- '{before}{assistant}{answer}' + message['content'] + eos_token -}}}}"
        + "{%- else -%}"
        + f"{{{{- '{before}' + names[message['role']] + '{colon}' + message['content'] + '\\n' -}}}}"
        + "{%- endif -%}"
        + "{%- endfor -%}"
        + f"{{%- if add_generation_prompt -%}}{{{{- '{before}{assistant}{answer.rstrip()}' -}}}}{{%- endif -%}}"
    )
