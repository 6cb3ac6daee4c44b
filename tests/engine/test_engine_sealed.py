"""Sealed folders: whatever becomes of their bytes is seen, and said in a few words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.engine.sealed import MANIFEST, damage, step_folder, steps_in, write_sealed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed folder with a file of text and one of bytes."""

    def fill(part: Path) -> None:
        (part / "state.json").write_text('{"step": 5}', encoding="utf-8")
        (part / "weights.safetensors").write_bytes(bytes(range(60)))

    write_sealed(tmp_path / "step-000005", fill)
    assert damage(tmp_path / "step-000005") is None
    return tmp_path / "step-000005"


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", MANIFEST])
def test_no_length_of_a_file_but_its_own_is_whole(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in range(len(whole)):
        (folder / name).write_bytes(whole[:length])
        assert damage(folder) is not None, length
        if name != MANIFEST:
            assert damage(folder, content=False) == f"{name} has {length} of {len(whole)} bytes"
    (folder / name).write_bytes(whole + b"x")
    assert damage(folder) is not None


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", MANIFEST])
@pytest.mark.parametrize("bit", [0, 5, 7])
def test_no_byte_can_change_unseen(folder: Path, name: str, bit: int) -> None:
    """But for blanks of the manifest, which may be other blanks; what it says is then the same."""
    whole = (folder / name).read_bytes()
    for place in range(len(whole)):
        other = bytearray(whole)
        other[place] ^= 1 << bit
        (folder / name).write_bytes(bytes(other))
        try:
            same = name == MANIFEST and json.loads(bytes(other)) == json.loads(whole)
        except ValueError:
            same = False
        assert (damage(folder) is None) == same, place


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ('{"format": 2, "files": {}}', "its format is 2, known is 1"),
        ('{"format": 1, "files": {}}', "state.json is not in its manifest.json"),
        ('{"format": 1, "files": {"x": {"bytes": Infinity, "sha256": "0"}}}', "missing or damaged"),
        ('{"format": 1, "files": {"x": {"bytes": "no", "sha256": "0"}}}', "missing or damaged"),
        ('{"format": 1, "files": {"..": {"bytes": 1, "sha256": "0"}}}', ".. is missing"),
        ('{"format": 1, "files": {"\\u0000": {"bytes": 1, "sha256": "0"}}}', "is missing"),
        ('{"format": ' + "[" * 100_000 + "}", "missing or damaged"),
        ("", "missing or damaged"),
        ("PK\x03\x04", "missing or damaged"),
    ],
)
def test_a_manifest_of_any_other_kind_is_damage(folder: Path, manifest: str, said: str) -> None:
    (folder / MANIFEST).write_text(manifest, encoding="utf-8")
    assert said in (damage(folder) or "")


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: (file.unlink(), file.mkdir())])
def test_a_file_that_is_gone_or_a_folder_now_is_damage(folder: Path, harm: Callable[[Path], object]) -> None:
    harm(folder / "state.json")
    assert damage(folder) == "state.json is missing"


def test_only_names_that_are_written_are_steps(tmp_path: Path) -> None:
    for step in (7, 123_456, 1_234_567):
        step_folder(tmp_path, step).mkdir()
    for name in ("step-7", "step-0000008", "step-000009.part", "step-٠٠٠٠٠٧", "reference"):
        (tmp_path / name).mkdir()
    assert steps_in(tmp_path) == [1_234_567, 123_456, 7]
