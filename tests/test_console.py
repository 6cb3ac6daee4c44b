"""What a run shows: plain lines, a panel, or nothing, and always the log."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence

import pytest
from rich.console import Console as Terminal

from posttrain.console import Console, Lines, Panel, Silent, open_console
from posttrain.console.page import line
from posttrain.console.progress import Course, number, sparkline
from posttrain.inert import inert


def clock(*, seconds_a_step: float) -> Callable[[], float]:
    """A clock that advances at every look."""
    times = iter(range(10_000))
    return lambda: next(times) * seconds_a_step


def plain(seconds_a_step: float = 1.0) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    terminal = Terminal(file=text, width=200, soft_wrap=True)
    return Console(Lines(terminal), clock=clock(seconds_a_step=seconds_a_step)), text


def test_plain_lines_tell_step_loss_rate_and_time_left() -> None:
    console, text = plain(seconds_a_step=2.0)
    console.start("sft  base → runs/sft", 2, where="cpu · fp32")
    console.step(1, {"loss": 1.5, "tokens": 3000.0, "grad_norm": 0.25, "learning_rate": 1.9e-4})
    lines = text.getvalue().splitlines()
    assert lines[0] == "sft  base → runs/sft   cpu · fp32"
    # one step in two seconds with 3000 tokens: 0.5 steps and 1500 tokens a second, two seconds for the last one
    assert lines[1].startswith(
        "step 1/2   loss 1.500   grad 0.250   lr 1.9e-4   2.0 s/it · 1.5 k tok/s · 0:02 left (done "
    )


def test_a_long_run_makes_about_twenty_lines() -> None:
    console, text = plain()
    console.start("sft", 1000)
    for step in range(1, 1001):
        console.step(step, {"loss": 1.0})
    assert len([line for line in text.getvalue().splitlines() if line.startswith("step")]) == 21


def test_an_evaluation_after_a_step_is_a_line_of_its_own_with_the_first_one() -> None:
    console, text = plain()
    console.start("sft", 100)
    console.step(1, {"loss": 2.0})
    console.step(1, {"eval_loss": 2.5})
    console.step(7, {"loss": 1.5})
    console.step(7, {"eval_loss": 1.75})
    assert text.getvalue().splitlines()[-1] == "step 7/100   eval 1.750 (first 2.500)"


def test_a_run_that_goes_on_calls_no_later_evaluation_its_first() -> None:
    console, text = plain()
    console.start("sft", 100, done=50)
    console.step(51, {"loss": 1.5})
    console.step(51, {"eval_loss": 1.75})
    assert text.getvalue().splitlines()[-1] == "step 51/100   eval 1.750"


def test_square_brackets_in_a_line_are_text() -> None:
    console, text = plain()
    console.say("fix: set [red]lora[/red] to null")
    assert text.getvalue() == "fix: set [red]lora[/red] to null\n"


def test_a_sample_is_one_line_and_says_how_it_ended() -> None:
    console, text = plain()
    console.sample("What is\noverfitting?", "x" * 100, stopped=False)
    assert text.getvalue() == f'sample  "What is overfitting?" → "{"x" * 59}…" ✂ cut at the limit\n'


def test_a_table_aligns_numbers_and_leaves_gaps_empty() -> None:
    console, text = plain()
    console.table([{"model": "base", "exact": 0.125}, {"model": "sft", "exact": 0.9, "kl": 1.2}], "Evaluation")
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert lines == [["Evaluation"], ["model", "exact", "kl"], ["base", "0.125"], ["sft", "0.900", "1.200"]]


def test_everything_said_reaches_the_log_also_what_was_said_before_it() -> None:
    log: list[str] = []
    console = Console(Silent())
    console.say("before")
    console.attach(log.append)
    console.start("sft", 3, where="cpu")
    console.step(1, {"loss": 1.0})
    console.finish("after")
    assert log == ["before", "sft: 3 steps on cpu", "after"]


def test_the_panel_draws_bar_course_and_sample_in_place() -> None:
    text = io.StringIO()
    console = Console(Panel(Terminal(file=text, force_terminal=True, width=100)), clock=clock(seconds_a_step=1.0))
    console.start("ppo  runs/sft → runs/ppo", 4, where="cpu · fp32")
    console.sample("Why?", "Because.", stopped=True)
    for step, score in enumerate((0.0, 1.0), 1):
        console.step(step, {"score": score, "kl": 0.5})
    console.finish("saved runs/ppo")
    shown = text.getvalue()
    for part in ("ppo  runs/sft → runs/ppo", "step 2/4", "50%", "score 1.000 ▁█   kl 0.500 ▁▁", "Because.", "saved"):
        assert part in shown


def test_a_console_is_plain_without_a_terminal_and_silent_when_asked() -> None:
    text = io.StringIO()
    open_console(stream=text).say("hello")
    assert text.getvalue() == "hello\n"
    open_console(quiet=True, stream=text).say("hidden")
    assert text.getvalue() == "hello\n"


def panel_after(steps: Sequence[Mapping[str, float]]) -> list[str]:
    """The last panel that is drawn after these steps, line by line, but for its title and its bar."""
    text = io.StringIO()
    console = Console(Panel(Terminal(file=text, force_terminal=True, width=200)), clock=clock(seconds_a_step=1.0))
    console.start("a run", len(steps))
    for step, metrics in enumerate(steps, 1):
        console.step(step, metrics)
    console.finish()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    return [line.rstrip() for line in shown.split("a run")[-1].splitlines()[2:] if line.strip()]


def test_the_panel_draws_the_loss_of_every_method_and_the_score_and_kl_of_ppo() -> None:
    falling = [{"loss": 4.0 - step, "grad_norm": 1.0} for step in range(4)]
    assert panel_after(falling) == ["loss 1.000 █▆▃▁   grad 1.000"]
    rounds = [{"score": 1.0 * n, "kl": 0.5 * n, "critic_loss": 2.0 - n, "actor_loss": -0.5} for n in range(3)]
    assert panel_after(rounds) == ["score 2.000 ▁▅█   kl 1.000 ▁▅█", "actor loss -0.500 ▁▁▁   critic loss 0.000 █▅▁"]
    pairs = [{"score": 0.5, "loss": 0.7, "kl": 0.1}]
    assert panel_after(pairs) == ["score 0.500 ▁   kl 0.100 ▁", "loss 0.700 ▁"]


def test_a_course_stays_small_and_true_however_long_a_run_is() -> None:
    course = Course()
    for step in range(100_000):
        course.add(float(step))
        course.add(float("nan"))
    assert len(course.means) < 512
    assert course.drawn == sparkline(range(16))
    assert course.means[0] == (course.each - 1) / 2  # the mean of 0, 1, 2 and so on


def test_a_sparkline_goes_from_the_lowest_to_the_highest_value() -> None:
    assert sparkline([0, 7, 3.5]) == "▁█▅"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""
    assert sparkline([0.0] * 50 + [1.0] * 50, width=4) == "▁▁██"


def test_numbers_are_short_enough_to_read() -> None:
    assert [number(value) for value in (0.0, 1.1824, 0.00019, -12.5, 1234.6, 3.2e9)] == [
        "0.000",
        "1.182",
        "1.9e-4",
        "-12.500",
        "1,235",
        "3.2e+9",
    ]


STEERING = "a\x1b[2J\x1b]0;title\x07\x9b31m\r\u202eb[red]\ud800"
"""What clears a screen, names a window, colours, goes back to the line's start and turns the direction of reading."""


def test_texts_of_data_and_models_steer_neither_the_terminal_nor_its_log() -> None:
    stream, log = io.StringIO(), list[str]()
    for view in (Lines, Panel):
        console = Console(view(Terminal(file=stream, width=400, force_terminal=view is Panel, soft_wrap=True)))
        console.attach(log.append)
        console.say(STEERING)
        console.start(STEERING, 2)
        console.sample(STEERING, STEERING, stopped=True)
        console.step(1, {"loss": 1.0})
        console.table([{STEERING: STEERING}], title=STEERING)
        console.working(STEERING)
        console.page([line(STEERING, STEERING)])
        console.finish(STEERING)
    spelt = r"a\u001b[2J\u001b]0;title\u0007\u009b31m\u000d\u202eb[red]\ud800"
    assert log.count(spelt) == 4
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())  # what rich itself draws a panel with
    assert "[2J" in shown
    assert not set("\x1b\x07\x9b\u202e\ud800") & set(shown)
    assert shown.count(spelt) >= 8


def test_lines_tabs_and_joined_characters_stay() -> None:
    text = "one\n\ttwo é 我 \N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}\N{SOFT HYPHEN}"
    assert inert(text) == text


@pytest.mark.parametrize("kind", ["lines", "panel"])
def test_nobody_reads_on_and_the_run_goes_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "panel":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
    reader, writer = os.pipe()
    stream, log = os.fdopen(writer, "w"), list[str]()
    console = open_console(stream=stream)
    assert type(console._view) is {"lines": Lines, "panel": Panel}[kind]  # pyright: ignore[reportPrivateUsage]
    console.attach(log.append)
    console.say("first")
    os.close(reader)  # as `head -1` does
    console.start("sft", 2)
    for step in (1, 2):
        console.step(step, {"loss": 1.0})
    console.sample("prompt", "answer", stopped=True)
    console.table([{"a": 1}])
    console.finish("saved")
    stream.close()  # nothing is left in it that the pipe would refuse at the end
    assert log == ["first", "sft: 2 steps", "saved"]


def test_a_stream_that_is_no_file_of_the_system_may_break_as_well() -> None:
    class Broken(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    console = open_console(stream=Broken())
    console.say("first")
    console.finish("saved")
