"""`python -m tests.mutation`: change `posttrain/ops` in every small way and count the changes that its tests see.

`python -m tests.mutation kl ragged` takes only these modules, each with its own test file alone. mutmut makes the
changes and runs the tests, on a copy in a temporary folder.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPS = ROOT / "posttrain" / "ops"
MODULES = sorted(file.stem for file in OPS.glob("*.py") if file.stem != "__init__")
LEAST = 0.9
"""The share of changes that the tests must see."""
# mutmut's exit codes; a change that never ends is seen too.
SEEN = {1: "killed", 3: "killed", 24: "timeout", -24: "timeout", 36: "timeout", 152: "timeout", 255: "timeout"}

SETTINGS = """
[tool.pytest.ini_options]
addopts = "--strict-markers --strict-config -p no:cacheprovider"
markers = ["medium: some seconds", "slow: minutes"]

[tool.mutmut]
source_paths = ["posttrain"]
only_mutate = {mutated}
pytest_add_cli_args_test_selection = {tests}
"""


def prepare(folder: Path, modules: Sequence[str]) -> None:
    """A project in `folder` with the package, the tests of `ops`, and mutmut's settings for the modules."""
    shutil.copytree(ROOT / "posttrain", folder / "posttrain", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for name in ("conftest.py", "killing.py", "stages.py"):
        shutil.copy(ROOT / "tests" / name, folder / "tests")
    for room in ("fuzzing", "ops"):  # conftest makes its small model as the fuzzer does
        shutil.copytree(ROOT / "tests" / room, folder / "tests" / room, ignore=shutil.ignore_patterns("__pycache__"))
    chosen = modules or MODULES
    tests = [f"tests/ops/test_ops_{name}.py" for name in chosen] if modules else ["tests/ops"]
    mutated = [f"posttrain/ops/{name}.py" for name in chosen]
    text = SETTINGS.format(mutated=json.dumps(mutated), tests=json.dumps(tests))
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def results(folder: Path) -> dict[str, str]:
    """What became of each change, by its name: killed, timeout, or `exit code N` for one that no test saw."""
    found: dict[str, str] = {}
    for file in sorted((folder / "mutants" / "posttrain" / "ops").glob("*.meta")):
        codes: Mapping[str, int | None] = json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
        found |= {name: SEEN.get(code or 0, f"exit code {code}") for name, code in codes.items()}
    return found


def show(folder: Path, name: str) -> str:
    """The change itself, as the lines that it takes away and adds."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name], cwd=folder, capture_output=True, text=True, check=False
    )
    return "\n".join(line for line in done.stdout.splitlines() if re.match(r"[-+](?![-+])", line))


def main(words: Sequence[str]) -> int:
    """0 when enough changes are seen, else 1."""
    if unknown := sorted(set(words) - set(MODULES)):
        print(f"error: no module of ops is named {unknown[0]}; there are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, words)
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", "run"], cwd=folder, capture_output=True, text=True, check=False
        )
        found = results(folder)
        if done.returncode != 0 or not found or "exit code None" in found.values():
            print(f"error: mutmut did not finish\n{done.stdout[-2000:]}{done.stderr[-2000:]}", file=sys.stderr)
            return 2
        left = [name for name, fate in found.items() if fate not in SEEN.values()]
        for name in left:
            print(f"not seen: {name.removeprefix('posttrain.ops.')} ({found[name]})\n{show(folder, name)}\n")
    share = 1 - len(left) / len(found)
    for module, counts in _by_module(found).items():
        print(f"{module:12s} {sum(counts.values()):4d} changes, " + ", ".join(f"{n} {w}" for w, n in counts.items()))
    print(f"{len(found) - len(left)} of {len(found)} changes are seen: {share:.1%}, at least {LEAST:.0%} is asked for")
    return int(share < LEAST)


def _by_module(found: Mapping[str, str]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for name, fate in found.items():
        counts.setdefault(name.split(".")[2], Counter())[fate] += 1
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
