"""The lecture's questions as experiments, each with a figure and its numbers.

    python -m examples.questions ratio --out docs/figures

`all` answers every one. The pages of docs/ show what these commands write.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from examples.questions import advantage, critic, ratio, sigmoid, supervised
from examples.questions.figures import Answer
from posttrain.errors import PosttrainError

Question = Literal["ratio", "critic", "advantage", "supervised", "sigmoid"]
ANSWERS: dict[str, Callable[[], Answer]] = {
    "ratio": lambda: ratio.answer(ratio.Plan()),
    "critic": lambda: critic.answer(critic.Plan()),
    "advantage": lambda: advantage.answer(advantage.Plan()),
    "supervised": lambda: supervised.answer(supervised.Plan()),
    "sigmoid": lambda: sigmoid.answer(sigmoid.Plan()),
}


def questions(
    question: Annotated[Question | Literal["all"], Parameter(help="which question")],
    *,
    out: Annotated[Path, Parameter(help="the folder for the figure and its numbers")] = Path("docs/figures"),
) -> None:
    """Answer a question that the lecture's notes raise, with a figure (SVG) and its numbers (JSON)."""
    for name in ANSWERS if question == "all" else (question,):
        start = time.process_time()
        numbers, figure = ANSWERS[name]().write(out, name)
        print(f"{name}: {numbers}, {figure} ({time.process_time() - start:.0f} s)")


def main(words: Sequence[str] | None = None) -> int:
    """The exit code of the command line; the package's own errors are one clear message."""
    app = App(help=questions.__doc__ or "", result_action="return_value", version_flags=())
    app.default(questions)
    try:
        app(words)
    except PosttrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(
            f"error: {error.filename}: {error.strerror}\n  fix: give --out a folder that can be written to",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
