"""The public face: the names of the package and the flags of the commands. They change on purpose only.

To accept a change on purpose: `python tests/test_public.py` writes the snapshots anew.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import posttrain
from posttrain.config import CONFIGS, leaves

SNAPSHOTS = Path(__file__).parent / "snapshots"
ASK = "import sys, posttrain; {code}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"


def loaded(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `import posttrain` and `code`."""
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(code=code)], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def public_names() -> str:
    return "".join(f"{name}\n" for name in posttrain.__all__)


def flags() -> str:
    lines = [
        f"{command} --{leaf.name} {leaf.metavar}" for command, config in CONFIGS.items() for leaf in leaves(config)
    ]
    return "".join(f"{line}\n" for line in lines)


def test_the_public_names_are_those_of_the_snapshot() -> None:
    assert public_names() == (SNAPSHOTS / "names.txt").read_text(encoding="utf-8")


def test_the_flags_are_those_of_the_snapshot() -> None:
    assert flags() == (SNAPSHOTS / "flags.txt").read_text(encoding="utf-8")


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in posttrain.__all__:
        assert getattr(posttrain, name).__doc__, name
    assert set(dir(posttrain)) == set(posttrain.__all__)


def test_no_module_takes_the_place_of_a_public_function() -> None:
    # importing the module posttrain.x sets the attribute x of the package
    rooms = {path.name.removesuffix(".py") for path in Path(posttrain.__file__).parent.iterdir()}
    assert rooms & set(posttrain.__all__) == {"ops"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded("pass") & {"torch", "transformers", "peft", "numpy", "pydantic", "rich", "cyclopts"}


def test_settings_errors_and_runs_load_no_torch() -> None:
    assert not loaded("posttrain.Lora(rank=2), posttrain.ConfigError, posttrain.Run") & {"torch", "transformers"}


def test_a_report_is_made_without_torch() -> None:
    assert not loaded("import posttrain.workflows.reporting, posttrain.report.live") & {"torch", "transformers"}


if __name__ == "__main__":
    (SNAPSHOTS / "names.txt").write_text(public_names(), encoding="utf-8")
    (SNAPSHOTS / "flags.txt").write_text(flags(), encoding="utf-8")
