"""Inputs that once broke something, each in a file of its own: what it showed, and the bytes of its files."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .mutators import Files

FOLDER = Path(__file__).resolve().parent.parent / "fuzzed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An input of a kind, and what went wrong with it."""

    kind: str
    showed: str
    files: Files

    def write(self, path: Path) -> None:
        """Writes the case; what is text is written as such."""
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "kind": self.kind,
            "showed": self.showed,
            "files": {name: _spelt(self.files[name]) for name in self.files},
        }
        path.write_text(json.dumps(facts, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Case:
        """The case in a file."""
        facts = json.loads(path.read_text(encoding="utf-8"))
        files = {name: _bytes(data) for name, data in facts["files"].items()}
        return Case(kind=facts["kind"], showed=facts["showed"], files=files)


def cases() -> Iterator[Path]:
    """Every case of the repository."""
    yield from sorted(FOLDER.glob("*.json"))


def _spelt(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(spelt: str | dict[str, str]) -> bytes:
    return spelt.encode() if isinstance(spelt, str) else base64.b64decode(spelt["base64"])
