"""The pages say what is: their Python runs, their commands say what stands below them, their rows are read as told.

A fenced block of a page is `python` (it runs), `console` (each `$ posttrain …` runs and says the lines below it, where
`…` stands for anything), or has a file name beside its language (that file is written).
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.data.readers import open_data
from posttrain.data.recognise import spelled

BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)
FORMAT = re.compile(r"^\| (.+?) \| `(\{.*\})` \| `(.+)` \|$", re.MULTILINE)
RUNNING = [
    "README.md",
    "docs/guide.md",
    "docs/data.md",
    "docs/check.md",
    "docs/ppo.md",
    "docs/settings.md",
    "docs/rewards.md",
    "docs/report.md",
    "docs/runs.md",
    "docs/reliability.md",
    "docs/adapters.md",
    "docs/tasks.md",
    "docs/proofs.md",
    "docs/methods.md",
    "docs/preferences.md",
    "docs/ranking.md",
    "docs/ranking_loop.md",
]
PAGES = [*RUNNING, "docs/architecture.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"]


@pytest.fixture
def folder(repository: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, rows of each kind and the examples' data, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model, "base")
    shutil.copytree(repository / "examples" / "data", "examples/data")
    for name in ("train.jsonl", "more.jsonl"):
        _write(name, [{"prompt": f"Say {number}", "response": f"It is {number}."} for number in range(20)])
    _write("prompts.jsonl", [{"prompt": f"Say {number}"} for number in range(8)])
    _write(
        "ranked.jsonl",
        [{"prompt": f"Say {n}", "responses": [f"{n}", f"{n} {n}", "no"], "ranks": [1, 2, 2]} for n in range(20)],
    )
    return tmp_path


@pytest.mark.medium
@pytest.mark.parametrize("page", RUNNING)
def test_what_a_page_shows_is_so(page: str, repository: Path, folder: Path) -> None:
    names: dict[str, object] = {}
    ran = 0
    for language, file, body in BLOCK.findall((repository / page).read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(body, page, "exec"), names)
            ran += 1
        elif language == "console":
            for command, shown in _commands(body):
                said = _said(command, wrong="error:" in shown)
                assert re.search(_pattern(shown), said, re.DOTALL), f"{page}: {command} says\n{said}"
                ran += 1
        elif file:
            (folder / file).write_text(body, encoding="utf-8")
    assert ran


def test_every_row_of_the_table_of_layouts_is_read_as_the_table_says(repository: Path, tmp_path: Path) -> None:
    rows = FORMAT.findall((repository / "docs" / "data.md").read_text(encoding="utf-8"))
    assert len(rows) > 20
    file = tmp_path / "rows.jsonl"
    for layout, row, read in rows:
        file.write_text(row + "\n", encoding="utf-8")
        pool = layout.endswith("→ pool")  # pairs and rankings are one too, where answers to rank are asked for
        found = open_data(file, "pool" if pool else ("labelled", "target", "chat", "text", "ranked", "prompt"))
        assert (found.format, [spelled(record) for record in found]) == (layout, [read])


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_to_files(page: str, repository: Path) -> None:
    text = (repository / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    missing = [target for target in targets if not ((repository / page).parent / target).exists()]
    assert missing == []


def _commands(body: str) -> list[tuple[str, str]]:
    """Each command of a console block, with the lines that are shown below it."""
    starts = [match.start() for match in re.finditer(r"^\$ ", body, re.MULTILINE)]
    pieces = [body[start:end] for start, end in pairwise([*starts, len(body)])]
    return [(command.removeprefix("$ "), shown) for command, _, shown in (piece.partition("\n") for piece in pieces)]


def _said(command: str, *, wrong: bool) -> str:
    """What a command says on both streams; it fails exactly when it is shown to."""
    line, _, file = command.partition(" > ")
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors if file else out):
        code = main(shlex.split(line)[1:])
    assert (code != 0) == wrong, f"{command} exits with {code}:\n{out.getvalue()}"
    if file:
        Path(file).write_text(out.getvalue(), encoding="utf-8")
        return errors.getvalue()
    return out.getvalue()


def _pattern(shown: str) -> str:
    """A pattern of the lines, each whole, in which `…` stands for anything, lines of their own too."""
    lines = [re.escape(line.rstrip()).replace("…", ".*?") for line in shown.strip("\n").split("\n")]
    return "^" + r" *\n".join(lines).replace(r".*? *\n", r".*?") + r" *(?=\n|\Z)"


def _write(name: str, rows: list[dict[str, object]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
