"""Training needs no page, no report and no workflow: it works in a copy of the package without them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.medium

PACKAGE = Path(__file__).resolve().parent.parent / "posttrain"
ALONE = """
import importlib, pathlib, sys
import posttrain
package = pathlib.Path(posttrain.__file__).parent
assert str(package) == sys.argv[1], package
for file in sorted(package.rglob("*.py")):
    parts = [part for part in file.relative_to(package).with_suffix("").parts if part != "__init__"]
    importlib.import_module(".".join(["posttrain", *parts]))
run = posttrain.sft(
    model=sys.argv[2], data=sys.argv[3], out=sys.argv[4], steps=2, batch_size=4, eval_data=None, quiet=True
)
assert len(run.metrics) == 2, run.metrics
assert run.status == "done", run.status
"""


@pytest.fixture
def training_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from, with a `posttrain` that can only train."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copytree(PACKAGE, folder / "posttrain", ignore=shutil.ignore_patterns("__pycache__"))
    for room in ("feedback", "report", "workflows"):
        shutil.rmtree(folder / "posttrain" / room, ignore_errors=True)
    # the command line and the entry point may name every room; training does not pass through them
    for door in ("cli.py", "__main__.py"):
        (folder / "posttrain" / door).unlink(missing_ok=True)
    return folder


def test_finetuning_works_and_every_module_imports_without_the_other_rooms(
    training_alone: Path, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{n} + {n} =", "completion": str(2 * n)} for n in range(12)]
    data, out = tmp_path / "train.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = os.environ | {"PYTHONPATH": str(training_alone), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    given = map(str, (training_alone / "posttrain", tiny_model, data, out))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *given],
        env=environment, capture_output=True, text=True, cwd=training_alone, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    trained = load_file(out / "model.safetensors")
    start = load_file(tiny_model / "model.safetensors")
    assert any(not torch.equal(trained[name], start[name]) for name in start)
