"""Chat templates: a tokenizer's own, the built-in ones for models that have none, and dates that stand still."""

from __future__ import annotations

import datetime
import re
import resource
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import psutil
from jinja2 import Environment, TemplateSyntaxError

from posttrain.errors import DataError, ModelError, Problem
from posttrain.text.tokenizer import Tokenizer
from posttrain.types import JSON, Message

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

_LONGEST, _MOST_STEPS = 1_000_000, 1_000_000
"""Characters and lines of a program that a template may need for a probe: those of models need some thousand."""

_ROOM = 2**28
"""Bytes by which a process may grow while a template renders a probe, its translation to Python included."""

_PROBE = "one Probe"
"""An answer that no change of letter case leaves as it is."""

_DATE_CALL = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>.*?)(?P=quote)\s*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A chat template in jinja, where it comes from, and the tokenizer whose special tokens it names."""

    words: Tokenizer
    jinja: str
    source: str
    options: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"])

    def render(self, messages: Sequence[Message], *, place: str, generation: bool = False) -> str:
        """The text of a conversation; with `generation`, up to where the assistant's next answer begins.

        Raises DataError naming `place` when the template refuses the conversation.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        options: dict[str, Any] = {**self.options, "tokenize": False, "add_generation_prompt": generation}
        try:
            return cast(str, self.words.tokenizer.apply_chat_template(turns, chat_template=self.jinja, **options))
        except MemoryError:
            raise
        except Exception as reason:  # a template is a program: it may raise whatever its expressions do
            what = f"the model's chat template refuses this conversation: {reason}"
            fix = "change the roles of this row, or take another template (template: plain)"
            raise DataError([Problem(place=place, what=what, fix=fix)]) from reason

    def answered(self, messages: Sequence[Message], answer: str, *, place: str) -> str:
        """The text of a conversation that ends with `answer`."""
        return self.render((*messages, Message(role="assistant", content=answer)), place=place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dress:
    """What a template puts around an answer. `lead` and `trail` stand before it and after it, in the text.

    `end` is the id that ends the turn: the first control token after the answer, else the tokenizer's end of text; then
    `written` is False, for the template itself ends no turn.
    """

    end: int
    ending: str
    written: bool = True
    lead: str = ""
    trail: str = ""


def dress(template: Template) -> Dress:
    """How `template` dresses an answer, seen on a probe.

    Raises ModelError for a template that leaves answers out, or writes them otherwise than they were given.
    """
    words, place = template.words, "the chat template"
    question = (Message(role="user", content="question"),)
    with _bounded(template.jinja):
        prompt = template.render(question, place=place, generation=True)
        whole = template.answered(question, _PROBE, place=place)
    if len(whole) > _LONGEST:
        raise _refused(f"writes {len(whole):,} characters around a question of one word")
    before, found, after = whole.rpartition(_PROBE)
    if not found:
        where = "the tokenizer's chat template" if template.source == "tokenizer" else f"the template {template.source}"
        raise ModelError(
            f"{where}  does not write what the assistant says as it is: the answer {_PROBE!r} is not in its rendering\n"
            "  fix: take another template (template: plain), or mend it: {{ message['content'] }} for the assistant too"
        )
    lead = before[len(prompt) :] if before.startswith(prompt) else ""
    end = next((token for token in words.encode(after) if token in words.controls), None)
    if end is None:
        return Dress(end=words.eos, ending=words.spelling(words.eos), written=False, lead=lead)
    return Dress(end=end, ending=words.spelling(end), lead=lead, trail=after.partition(words.spelling(end))[0])


@contextmanager
def _bounded(jinja: str) -> Generator[None]:
    """A place to render a probe in, for templates of whoever.

    Jinja's sandbox keeps them from files, attributes and code, not from taking time and memory. Raises ModelError for
    one that takes over a million steps for a probe, more than a quarter of a GiB, whether by a product, a width or a
    text that doubles, or raises to a power, which no conversation needs and no step counts.
    """
    try:
        if any(value == "**" for _, kind, value in Environment().lex(jinja) if kind == "operator"):
            raise _refused("raises numbers to a power, which a conversation does not need")
    except TemplateSyntaxError:
        pass  # said where it is rendered
    before, steps = sys.gettrace(), 0

    def count(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal steps
        if frame.f_code.co_filename != "<template>":
            return None
        steps += 1
        if steps > _MOST_STEPS:
            raise _Endless
        return count

    sys.settrace(count)
    try:
        with _within(_ROOM):
            yield
    except _Endless:
        raise _refused(f"does not come to an end within {_MOST_STEPS:,} steps for a question of one word") from None
    except MemoryError:
        raise _refused(f"takes more than {_ROOM >> 20} MiB of memory for a question of one word") from None
    finally:
        sys.settrace(before)


@contextmanager
def _within(room: int) -> Generator[None]:
    """Inside, the system refuses to let this process grow by more than so many bytes, where it knows such a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + room
    lower = most if soft == resource.RLIM_INFINITY else min(most, soft)
    try:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (lower, hard))
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _Endless(BaseException):
    """A template has taken too many steps; no part of one may catch it."""


def _refused(what: str) -> ModelError:
    return ModelError(f"the chat template  {what}\n  fix: take another template (template: plain)")


def choose_template(words: Tokenizer, name: str | None) -> tuple[str, str]:
    """Where the template comes from, and its jinja: the tokenizer's own, `plain`, `notes`, or a file.

    Without a name it is the tokenizer's own, or the plain one where that has none. Raises ModelError when `name` is
    none of these.
    """
    own: object = words.tokenizer.chat_template
    has_bos = words.bos is not None
    if name is None and own:
        chosen = words.tokenizer.get_chat_template() if isinstance(own, str | dict) else own
        if not isinstance(chosen, str):
            raise _refused(f"is {chosen!r:.40}, expected text")
        return "tokenizer", chosen
    if name is None or name == PLAIN:
        return f"built-in {PLAIN}", plain_template(words.encode, unknown=words.unknown, has_bos=has_bos)
    if name == NOTES:
        return f"built-in {NOTES}", notes_template(has_bos=has_bos)
    try:
        return name, Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise ModelError(
            f"template: {name!r} is neither {PLAIN!r} nor {NOTES!r}, nor a file that can be read\n"
            "  fix: give one of them, or leave it out"
        ) from reason


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
