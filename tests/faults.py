"""`python -m tests.faults`: plant each fault in a copy of the package and show which test sees it.

`python -m tests.faults credit kl` takes only the faults whose file or description has one of these words in it.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from tests.planted import FAULTS, Fault

ROOT = Path(__file__).resolve().parent.parent
# Imported once, before the copies of the package: each fault then costs its tests alone.
HEAVY = ("torch", "peft", "hypothesis", "tokenizers", "transformers.models.llama.modeling_llama")
_SEEN_BEFORE = "ignore:Module already imported"


def planted(fault: Fault, package: Path) -> str:
    """The text of the fault's file with the line changed. Raises ValueError when the line does not stand there once."""
    text = (package / fault.file).read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if line.strip() == fault.before]
    if len(found) != 1:
        raise ValueError(f"{fault.file} has this line {len(found)} times, not once: {fault.before}")
    [line] = found
    return text.replace(line, line.replace(fault.before, fault.after))


def caught_by(fault: Fault, folder: Path) -> str:
    """The test that fails with the fault, or nothing. Raises RuntimeError when the tests could not be run at all."""
    package = folder / "posttrain"
    shutil.copytree(ROOT / "posttrain", package, ignore=shutil.ignore_patterns("__pycache__"))
    text = planted(fault, package)
    (package / fault.file).write_text(text, encoding="utf-8")
    said = folder / "said.txt"
    child = multiprocessing.get_context("fork").Process(target=_run, args=(fault.tests, folder, said))
    child.start()
    child.join()
    output = said.read_text(encoding="utf-8")
    failed = re.search(r"^FAILED tests/(.+?)(?: - .*)?$", output, re.MULTILINE)
    if child.exitcode not in (0, 1) or (child.exitcode == 1) != (failed is not None):
        raise RuntimeError(f"{fault.what}: the tests did not run (exit code {child.exitcode})\n{output}")
    return "" if failed is None else failed.group(1)


def _run(tests: Sequence[str], folder: Path, said: Path) -> None:
    """The tests against the package in `folder`, in a process of their own; leaves with pytest's exit code."""
    os.chdir(ROOT)
    sys.path.insert(0, str(folder))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--tb=no", "-W", _SEEN_BEFORE]
    with said.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = int(pytest.main([*options, *(f"tests/{test}" for test in tests)]))
        used = str(sys.modules["posttrain"].__file__)
        file.write("" if used.startswith(str(folder)) else f"\nthe tests used {used}\n")
    os._exit(code if used.startswith(str(folder)) else 9)


def main(words: Sequence[str]) -> int:
    """0 when every fault was seen by a test, else 1."""
    chosen = [fault for fault in FAULTS if not words or any(word in f"{fault.file} {fault.what}" for word in words)]
    if not chosen:
        print(f"error: no fault has {' or '.join(words)} in its file or description", file=sys.stderr)
        return 2
    for name in HEAVY:
        with contextlib.redirect_stderr(io.StringIO()):
            import_module(name)
    missed = 0
    for number, fault in enumerate(chosen, 1):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            test = caught_by(fault, Path(folder))
        missed += not test
        seconds = time.perf_counter() - began
        verdict = f"seen by {test}" if test else "NOT SEEN"
        print(f"{number:2d}/{len(chosen)} {fault.file}: {fault.what}\n      {verdict} ({seconds:.1f} s)", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults are seen" + (f", {missed} are not" if missed else ""))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
