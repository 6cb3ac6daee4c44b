"""Pages: masks in colour or in brackets, signs for what is not seen, and nothing that could steer a terminal."""

from __future__ import annotations

import io

from rich.console import Console as Terminal

from posttrain.console import Console, Lines, Panel, Silent
from posttrain.console.page import bars, brackets_for, line, visible


def shown(*lines: object, colour: bool = False) -> str:
    text = io.StringIO()
    if colour:
        view = Panel(Terminal(file=text, force_terminal=True, color_system="standard", width=100, soft_wrap=True))
    else:
        view = Lines(Terminal(file=text, width=20, soft_wrap=True))
    Console(view).page(lines)  # pyright: ignore[reportArgumentType]
    return text.getvalue()


def test_trained_stretches_stand_in_brackets_where_there_is_no_colour() -> None:
    row = line("row 1", ("User: Hi", "token"), (" Hel", "trained"), ("lo", "trained"), ("</s>", "trained control"), "!")
    assert shown(row) == "row 1       User: Hi[ Hello</s>]!\n"
    assert shown(line("", ("a", "trained"))) == "[a]\n"


def test_the_brackets_are_others_where_the_text_has_square_ones() -> None:
    rows = [line("", ("[INST]", "control"), ("Hi", "trained")), line("", "[not a token]")]
    assert brackets_for(rows[:1]) == ("⟦", "⟧")
    assert brackets_for(rows[1:]) == ("[", "]")
    assert shown(*rows) == "[INST]⟦Hi⟧\n[not a token]\n"


def test_colours_show_the_mask_and_the_border_between_tokens() -> None:
    found = shown(line("", ("Hi", "token"), (" a", "trained"), (" b", "trained")), colour=True)
    assert "[" not in found.replace("\x1b[", "")
    assert "\x1b[30;102m a" in found  # black on bright green
    assert "\x1b[30;42m b" in found  # black on green


def test_a_long_row_goes_on_under_its_beginning_on_a_terminal() -> None:
    text = io.StringIO()
    view = Panel(Terminal(file=text, force_terminal=True, color_system=None, width=24, soft_wrap=True))
    Console(view).page([line("row 1", "one two three four"), line("", "plain")])
    assert [row.rstrip() for row in text.getvalue().splitlines()] == [
        "row 1       one two",
        "            three four",
        "plain",
    ]


def test_what_cannot_be_seen_gets_a_sign() -> None:
    assert visible("a\nb\tc\r") == "a⏎b⇥c␍"
    assert visible("\x1b[31mred\u200b\u202e") == "\\u001b[31mred\\u200b\\u202e"
    assert visible("👩\u200d👧 שלום 我们 é") == "👩\u200d👧 שלום 我们 é"


def test_bars_go_from_nothing_to_the_most() -> None:
    assert bars([0, 1, 500, 1000]) == " ▁▄█"
    assert bars([0, 0]) == "  "
    assert bars([]) == ""


def test_work_is_shown_on_a_terminal_only_and_leaves_nothing_behind() -> None:
    plain, drawn = io.StringIO(), io.StringIO()
    for view in (Lines(Terminal(file=plain)), Panel(Terminal(file=drawn, force_terminal=True)), Silent()):
        console = Console(view)
        console.working("tokenising 512 rows")
        console.page([line("", "done")])
        console.finish()
    assert plain.getvalue() == "done\n"
    assert "tokenising" in drawn.getvalue()
    assert "\x1b[2K" in drawn.getvalue()  # the line is erased
