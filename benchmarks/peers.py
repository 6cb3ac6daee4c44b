"""Makes the environments of the libraries that we are measured against, from pinned lists.

    python -m benchmarks peers [NAME ...]

An environment is made under `.peers/NAME` of the project, or of the folder that POSTTRAIN_PEERS names, from
`benchmarks/peers/NAME.txt`; one that is whole already is left alone. A plain torch version takes the build of your
platform, or the one that PIP_FIND_LINKS offers. Of a list that begins with `# whole` nothing else is installed,
whatever its packages ask for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.frame.alternate import peers_folder

LISTS = Path(__file__).parent / "peers"
WHOLE = "# whole"
NAMES = sorted(file.stem for file in LISTS.glob("*.txt"))


def make(name: str) -> None:
    """Makes one environment; its list is copied beside it when all of it is installed."""
    folder, pinned = peers_folder() / name, (LISTS / f"{name}.txt").read_text(encoding="utf-8")
    done = folder / "installed.txt"
    if done.exists() and done.read_text(encoding="utf-8") == pinned:
        print(f"{folder} is there")
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    alone = ["--no-deps"] if pinned.startswith(WHOLE) else []
    words = [folder / "bin" / "python", "-m", "pip", "install", *alone, "-r", LISTS / f"{name}.txt"]
    subprocess.run(words, check=True)
    done.write_text(pinned, encoding="utf-8")
    print(f"{folder} is made")


def main() -> int:
    """0; an installation that fails raises."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"{', '.join(unknown)} is not one of {', '.join(NAMES)}")
    for name in names:
        make(name)
    return 0
