"""The Python of README and docs runs as it stands."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = ["README.md", "docs/guide.md"]


@pytest.mark.medium
@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(
    page: str, repository: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = BLOCK.findall((repository / page).read_text(encoding="utf-8"))
    assert blocks
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "base")
    for name in ("train.jsonl", "more.jsonl"):
        _write(name, [{"prompt": f"Say {number}", "response": f"It is {number}."} for number in range(20)])
    _write("prompts.jsonl", [{"prompt": f"Say {number}"} for number in range(8)])
    _write(
        "ranked.jsonl",
        [{"prompt": f"Say {n}", "responses": [f"{n}", f"{n} {n}", "no"], "ranks": [1, 2, 2]} for n in range(20)],
    )
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", [*PAGES, "docs/architecture.md", "CONTRIBUTING.md"])
def test_the_links_of_a_page_lead_to_files(page: str, repository: Path) -> None:
    text = (repository / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    missing = [target for target in targets if not ((repository / page).parent / target).exists()]
    assert missing == []


def _write(name: str, rows: list[dict[str, object]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
