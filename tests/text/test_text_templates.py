"""Templates of whoever: a sandbox keeps them from code and files, and a probe from taking all time and memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from text_tokenizers import gpt2

from posttrain.errors import DataError, ModelError
from posttrain.text.chat import Codec
from posttrain.text.templates import Dress, Template
from posttrain.types import Message

PLAIN = (
    "{% for m in messages %}{{ m.role + ': ' + m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


DOUBLED = "{% set n = namespace(s='xy') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}"
JOINED = "{% set n = namespace(s='xy') %}{% for i in range(60) %}{% set n.s = [n.s, n.s] | join %}{% endfor %}"
WRITTEN = (
    "{% set n = namespace(s='xy') %}{% for i in range(60) %}{% set more %}{{ n.s }}{{ n.s }}{% endset %}"
    "{% set n.s = more %}{% endfor %}"
)


def dressed(jinja: str, folder: Path) -> Dress:
    """What a template puts around an answer, where it may do so."""
    gpt2().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(jinja)
    return Codec.load(folder).dress


@pytest.mark.parametrize(
    ("jinja", "says"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ raise_exception.__globals__['os'].system('true') }}", "access to attribute '__globals__'"),
        ("{{ messages.__init__.__globals__ }}", "access to attribute '__init__'"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{% include '/etc/passwd' %}", "no loader for this environment specified"),
        ("{% import 'os' as os %}", "no loader for this environment specified"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "maximum recursion depth exceeded"),
        ("{% for i in range(1000000000) %}{% endfor %}", "Range too big"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{% for %}", "Expected an expression"),
    ],
)
def test_a_template_reaches_neither_code_nor_files(jinja: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        dressed(jinja, tmp_path)


@pytest.mark.parametrize(
    ("jinja", "says"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "does not come to an end within 1,000,000 steps",
        ),
        ("{{ 9 ** 9 ** 9 }}", "raises numbers to a power"),
        ("{{ 'a' * 10000000000000000 }}", "takes more than 256 MiB of memory for a question of one word"),
        ("{{ 'x' * 1000000000 }}", "takes more than 256 MiB"),
        ("{{ ['x'] * (messages | length * 100000000) }}", "takes more than 256 MiB"),
        ("{{ '%999999999d' % 1 }}", "takes more than 256 MiB"),
        ("{{ '{:999999999}'.format(1) }}", "takes more than 256 MiB"),
        ("{{ 'x' | center(999999999) }}", "takes more than 256 MiB"),
        ("{{ 'x'.ljust(999999999) }}", "takes more than 256 MiB"),
        (DOUBLED, "takes more than 256 MiB"),
        (JOINED, "takes more than 256 MiB"),
        (WRITTEN, "takes more than 256 MiB"),
        (PLAIN + "{{ 'x' * 2000000 }}", "writes 2,0[0-9,]+ characters around a question of one word"),
    ],
)
def test_a_template_takes_neither_all_time_nor_all_memory(jinja: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        dressed(jinja, tmp_path)
    assert "fix: take another template (template: plain)" in str(caught.value)
    assert sys.gettrace() is None or "posttrain" not in repr(sys.gettrace())


def test_a_limit_of_memory_is_set_for_the_probe_alone_and_never_raised(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(PLAIN)
    before, seen = resource.getrlimit(resource.RLIMIT_AS), list[int]()
    render = Template.render

    def watched(template: Template, messages: Sequence[Message], **asked: Any) -> str:
        seen.append(resource.getrlimit(resource.RLIMIT_AS)[0])
        return render(template, messages, **asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Template, "render", watched)
        codec = Codec.load(tmp_path)
        assert len(seen) == 2  # the prompt of the probe, and the probe with its answer
        assert all(0 < limit <= psutil.Process().memory_info().vms + 2**28 for limit in seen)
        codec.template.render([Message(role="user", content="a row")], place="rows.jsonl:1")
        assert seen[2] == before[0]
        lower = psutil.Process().memory_info().vms + 2**27
        resource.setrlimit(resource.RLIMIT_AS, (lower, before[1]))  # as `ulimit -v` does
        try:
            assert Codec.load(tmp_path).dress.written
            assert seen[3:] == [lower, lower]
            assert resource.getrlimit(resource.RLIMIT_AS) == (lower, before[1])
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_powers_in_the_text_of_a_template_are_text(tmp_path: Path) -> None:
    assert dressed("Answer in **bold**.\n" + PLAIN, tmp_path).written


def test_what_a_template_refuses_in_a_row_names_the_row(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ 7 // (messages | length - 3) }}" + PLAIN)
    template = Codec.load(tmp_path).template
    turns = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    assert template.render(turns, place="rows.jsonl:1")
    with pytest.raises(DataError, match=r"rows\.jsonl:2  the model's chat template refuses this conversation: .*zero"):
        template.render([*turns, turns[0]], place="rows.jsonl:2")


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    words = gpt2()
    words.chat_template = 5
    words.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().rstrip().removesuffix("}") + ', "chat_template": 5}')
    with pytest.raises(ModelError, match="the chat template  is 5, expected text"):
        Codec.load(tmp_path)
