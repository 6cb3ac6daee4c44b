"""The file of fingerprints: what is written is read back, and damage is told with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.config import SFTConfig, make_config
from posttrain.errors import DataError
from posttrain.run import RunWriter
from posttrain.run.fingerprints import FILE, Fingerprint, Fingerprints, last_weights, read_fingerprints

WEIGHTS = {"policy.a": 0, "policy.b": 2**32 - 1}


def step(number: int, **weights: int) -> Fingerprint:
    return Fingerprint(step=number, batch=f"b{number}", loss=f"l{number}", weights={**WEIGHTS, **weights})


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    return RunWriter.create(tmp_path / "run", make_config(SFTConfig, {"model": "m", "data": "d", "out": tmp_path}))


@pytest.fixture
def file(writer: RunWriter) -> Path:
    """The file of three steps."""
    for number in range(3):
        writer.fingerprint(step(number))
    return writer.path / "run" / FILE


def test_what_is_written_is_read_back(file: Path) -> None:
    found = read_fingerprints(file)
    assert found.names == ("policy.a", "policy.b")
    assert [*found.steps] == [0, 1, 2]
    assert (found.steps[2].batch, found.steps[2].loss, found.weights(2)) == ("b2", "l2", WEIGHTS)
    assert last_weights(file, 2) == WEIGHTS
    assert last_weights(file, 3) == {}


def test_the_names_stand_in_the_file_once(file: Path) -> None:
    assert file.read_text().count("policy.a") == 1


def test_a_run_that_goes_on_takes_back_the_steps_after_its_checkpoint(writer: RunWriter, file: Path) -> None:
    state, before = writer.state(), file.read_bytes()
    writer.fingerprint(step(3))
    writer.load_state(state)
    assert file.read_bytes() == before
    writer.rewind()
    writer.fingerprint(step(0))
    assert [*read_fingerprints(file).steps] == [0]


def test_no_file_and_a_last_line_that_was_cut_short(file: Path) -> None:
    assert read_fingerprints(file.with_name("none")) == Fingerprints()
    file.write_bytes(file.read_bytes()[:-3])
    assert [*read_fingerprints(file).steps] == [0, 1]
    file.write_bytes(b'{"form')
    assert read_fingerprints(file) == Fingerprints()


Row = dict[str, object]


def changed(name: str, value: object) -> Callable[[Row], object]:
    return lambda row: {**row, name: value}


def in_a_list(row: Row) -> object:
    return [row]


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (1, changed("format", 2), "expected the names of the weights and format 1"),
        (1, changed("weights", "all"), "expected the names of the weights"),
        (1, changed("weights", []), "expected the names of the weights"),
        (2, in_a_list, "is no object"),
        (3, changed("step", "1"), "expected step, batch, loss and weights"),
        (3, changed("step", True), "expected step, batch, loss and weights"),
        (3, changed("loss", None), "expected step, batch, loss and weights"),
        (3, changed("weights", "?"), "weights are not in base64"),
        (3, changed("weights", "é"), "weights are not in base64"),
        (3, changed("weights", "AAAA"), "has 3 bytes of weights, and needs 8"),
        (3, changed("step", 0), "step 0 stands after step 0"),
        (2, changed("step", -1), "there is no step -1"),
    ],
)
def test_damage_is_told_with_its_line(number: int, change: Callable[[Row], object], says: str, file: Path) -> None:
    lines = file.read_text().splitlines()
    lines[number - 1] = json.dumps(change(json.loads(lines[number - 1])))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"{FILE}:{number}  damaged: {says}"):
        read_fingerprints(file)
    assert last_weights(file, 2) == {}


@pytest.mark.parametrize("bytes_", [b"\xff\xfe\n", b"{\n", b"[" * 100_000 + b"\n"])
def test_what_is_no_json_is_told_too(bytes_: bytes, file: Path) -> None:
    file.write_bytes(file.read_bytes() + bytes_)
    with pytest.raises(DataError, match=f"{FILE}:5  damaged: is not JSON"):
        read_fingerprints(file)
