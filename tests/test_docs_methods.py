"""The page of methods: what its snippets print, the tests and functions it names, its anchors, its numbers."""

from __future__ import annotations

import io
import json
import re
import shutil
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

SHOWN = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^```json (\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
MODULES = {"losses": "posttrain.ops.losses", "credit": "posttrain.ops.credit", "kl": "posttrain.ops.kl",
           "objectives": "posttrain.objectives"}  # fmt: skip
# the page of a run links here
ANCHORS = (
    "Notation", "Log-prob", "Old log-prob", "Reference log-prob", "KL", "Score", "Reward", "Value", "Return",
    "Advantage", "Ratio", "Clip", "Entropy", "Margin", "Finetuning", "A reward model from rankings", "RLHF with PPO",
    "KL to the reference", "From a score to rewards", "Return, value, advantage", "Actor and critic",
    "DPO and its family", "What both aim at", "What is wrong in the notes' listings", "Five questions",
    "Why the ratio, and why clip it?", "The return is observed, so why learn a critic?", "Why an advantage?",
    "Why is supervised tuning not enough?", "Why the sigmoid in DPO?", "Mistakes others made",
)  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.medium
def test_each_snippet_prints_what_stands_below_it(
    page: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "base")
    for name, text in FILE.findall(page):
        Path(name).write_text(text, encoding="utf-8")
    names: dict[str, object] = {}
    blocks = SHOWN.findall(page)
    assert len([shown for _, shown in blocks if shown]) == 5
    for code, shown in blocks:
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(code, "methods.md", "exec"), names)
        assert said.getvalue() == shown


def test_every_test_that_the_page_names_exists(page: str, repository: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page))
    known = {
        name
        for file in (repository / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 20
    assert named - known == set()


def test_every_function_and_file_that_the_page_names_exists(page: str, repository: Path) -> None:
    named = re.findall(rf"`({'|'.join(MODULES)})\.(\w+)`", page)
    assert len(named) > 12
    assert [name for room, name in named if not hasattr(import_module(MODULES[room]), name)] == []
    places = (repository, repository / "posttrain", repository / "docs")
    files = re.findall(r"`([\w/]+(?:\.py|/))`", page)
    assert [name for name in files if not any((place / name).exists() for place in places)] == []


def test_the_anchors_that_other_pages_link_to_stay(page: str) -> None:
    headings = re.findall(r"^#{2,3} (.+)$", page, re.MULTILINE)
    assert [name for name in ANCHORS if headings.count(name) != 1] == []
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", page) if link not in slugs] == []


def number(folder: Path, where: str) -> float:
    """A number of an experiment, by its file and the names that lead to it."""
    name, *path = where.split("/")
    found: Any = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    for part in path:
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


NOISY, EXACT = (f"expected_reward_after_training_on_scores_with_noise_{noise}" for noise in (1, 0))
CELLS = {
    "| no ratio | {} | {} |": ("ratio/moved/no ratio/bias/4", "ratio/moved/no ratio/noise/4"),
    "| ratio | {} | {} |": ("ratio/moved/ratio/bias/4", "ratio/moved/ratio/noise/4"),
    "| ratio, clipped | {} | {} |": ("ratio/moved/ratio, clipped/bias/4", "ratio/moved/ratio, clipped/noise/4"),
    "| ratio | {} ({} to {}) | {} ({} to {}) |": tuple(
        f"ratio/{kind}/ratio/{part}" for kind in (EXACT, NOISY) for part in ("mean", "each_run/0", "each_run/7")
    ),
    "| ratio, clipped | {} ({} to {}) | {} ({} to {}) |": tuple(
        f"ratio/{kind}/ratio, clipped/{part}"
        for kind in (EXACT, NOISY)
        for part in ("mean", "each_run/0", "each_run/7")
    ),
    "| none | {} | {} ({}) | {} (": (
        "critic/gradient/none/variance", "critic/gradient/none/bias", "critic/gradient/none/bias_by_chance",
        "critic/expected_reward/none/at_the_end",
    ),
    "(`rloo`) | {} | {} ({}) | {} (": (
        "critic/gradient/group mean/variance", "critic/gradient/group mean/bias",
        "critic/gradient/group mean/bias_by_chance", "critic/expected_reward/group mean/at_the_end",
    ),
    "| critic, $\\lambda = 1$ | {} | {} ({}) | {} (": (
        "critic/gradient/critic/variance", "critic/gradient/critic/bias", "critic/gradient/critic/bias_by_chance",
        "critic/expected_reward/critic/at_the_end",
    ),
    "| supervised | {} | {} | {} | {} | {} |": (
        "supervised/probabilities/supervised/right", "supervised/probabilities/supervised/mediocre",
        "supervised/probabilities/supervised/bad", "supervised/token_loss/supervised", "supervised/gold/supervised",
    ),
    "| ranking | {} | {} | {} | {} | {} |": (
        "supervised/probabilities/ranking/right", "supervised/probabilities/ranking/mediocre",
        "supervised/probabilities/ranking/bad", "supervised/token_loss/ranking", "supervised/gold/ranking",
    ),
    "a variance of {} against {} at the start": (
        "advantage/variance_of_that_gradient/return alone", "advantage/variance_of_that_gradient/advantage",
    ),
    "for ever: {} after 750": ("sigmoid/margin_at_half_of_the_steps/raw difference",),
    "The sigmoid ends at {},": ("sigmoid/margin_of_best_over_worst/sigmoid",),
}  # fmt: skip
DIGITS = r"(−?\d*\.?\d+)"


@pytest.mark.parametrize("cells", CELLS)
def test_the_numbers_of_the_page_are_those_that_the_commands_wrote(cells: str, page: str, repository: Path) -> None:
    found = re.search(re.escape(cells).replace(r"\{\}", DIGITS), page)
    assert found is not None
    for shown, where in zip(found.groups(), CELLS[cells], strict=True):
        decimals = len(shown.partition(".")[2])
        expected = number(repository / "docs" / "figures", where)
        assert float(shown.replace("−", "-")) == pytest.approx(expected, abs=0.51 * 10**-decimals), where
