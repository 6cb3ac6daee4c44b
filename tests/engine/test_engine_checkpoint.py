"""Checkpoints: whole or not there, the newest whole one read, and every state back bit for bit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posttrain.engine import checkpoint, sealed
from posttrain.engine.checkpoint import Checkpoints, RandomNumbers, Weights
from posttrain.engine.sealed import steps_in
from posttrain.errors import ModelError
from posttrain.types import State


@dataclass
class Part:
    """A part with the given state."""

    held: State = field(default_factory=dict[str, "Tensor"])

    def state(self) -> State:
        return self.held

    def load_state(self, state: State) -> None:
        self.held = state


def saved(folder: Path, *steps: int, keep: int = 9) -> Checkpoints:
    """Checkpoints whose one part knows its step."""
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, {"part": {"step": step, "values": torch.full((3,), float(step))}})
    return checkpoints


def test_numbers_text_and_tensors_of_every_kind_come_back_as_they_were(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state: State = {
        "float": 0.1 + 0.2,
        "text": "你好 \ud83d",
        "nested": {"a": [1, None, True]},
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, dtype=torch.int64),
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "shared": whole,
        "part of it": whole[1:, ::2],
        "the same": whole,
    }
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, {"part": dict(state), "other": {}})
    found, passed = checkpoints.newest()
    assert found is not None
    assert passed == []
    back = found.states["part"]
    assert found.states["other"] == {}
    assert back.keys() == state.keys()
    for name, value in state.items():
        other = back[name]
        if isinstance(value, Tensor):
            assert isinstance(other, Tensor)
            assert (other.dtype, other.shape) == (value.dtype, value.shape)
            torch.testing.assert_close(other, value, rtol=0, atol=0, equal_nan=True)
        else:
            assert other == value


def test_the_newest_of_those_kept_is_read_and_older_ones_go(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "c", 5, 10, 15, keep=2)
    assert steps_in(tmp_path / "c") == [15, 10]
    found, _ = checkpoints.newest()
    assert found is not None
    assert (found.step, found.states["part"]["step"]) == (15, 15)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("file", ["part.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path, file: str, harm: Callable[[Path], None]) -> None:
    checkpoints = saved(tmp_path / "c", 5, 10)
    harm(tmp_path / "c" / "step-000010" / file)
    found, passed = checkpoints.newest()
    assert found is not None
    assert found.step == 5
    assert len(passed) == 1
    assert passed[0].startswith("checkpoint of step 10 is not used: ")
    assert file in passed[0]
    harm(tmp_path / "c" / "step-000005" / file)
    assert checkpoints.newest()[0] is None


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", "null", '{"format": 1, "files": 3}', '{"format": 1, "files": {"state.json": {}}}', "\xff"]
)
def test_a_manifest_of_another_shape_is_damage_not_an_error(tmp_path: Path, manifest: str) -> None:
    checkpoints = saved(tmp_path / "c", 5)
    (tmp_path / "c" / "step-000005" / "manifest.json").write_text(manifest, encoding="latin-1")
    assert checkpoints.newest()[0] is None


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "c", 5)
    (tmp_path / "secret").write_text("x")
    manifest = tmp_path / "c" / "step-000005" / "manifest.json"
    manifest.write_text(json.dumps({"format": 1, "files": {"../../secret": {"bytes": 1, "sha256": "0"}}}))
    assert checkpoints.newest()[1] == ["checkpoint of step 5 is not used: ../../secret is missing"]


def test_a_save_that_breaks_off_anywhere_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flush in turn is the last thing that happens: what a kill there leaves must be read as step 5 or 10."""
    flushes = 0
    for last in range(20):
        folder = tmp_path / str(last)
        checkpoints = saved(folder, 5, keep=1)
        left = last

        def flush(path: Path) -> None:
            nonlocal left, flushes
            left -= 1
            if left < 0:
                flushes += 1
                raise KeyboardInterrupt

        monkeypatch.setattr(sealed, "flush", flush)
        try:
            saved(folder, 10, keep=1)
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            monkeypatch.undo()
        found, passed = checkpoints.newest()
        assert found is not None
        assert (found.step, passed) in [(5, []), (10, [])]
        assert found.states["part"]["step"] == found.step
        saved(folder, 15, keep=1)
        assert [item.name for item in folder.iterdir()] == ["step-000015"]
    assert flushes >= 3


def test_a_disk_that_is_full_leaves_the_one_before_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path / "c", 5)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed, "flush", full)
    with pytest.raises(OSError, match=r"step-000010 cannot be written: .*No space left"):
        saved(tmp_path / "c", 10)
    assert [item.name for item in (tmp_path / "c").iterdir()] == ["step-000005"]
    found, _ = checkpoints.newest()
    assert found is not None
    assert found.step == 5


def test_a_checkpoint_is_replaced_by_another_of_its_step(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "c", 5)
    cut(tmp_path / "c" / "step-000005" / "state.json")
    saved(tmp_path / "c", 5)
    assert checkpoints.newest()[1] == []
    assert steps_in(tmp_path / "c") == [5]


def test_a_run_with_other_parts_is_refused(tmp_path: Path) -> None:
    found, _ = saved(tmp_path / "c", 5).newest()
    assert found is not None
    with pytest.raises(ModelError, match="the checkpoint of step 5 holds part; this run needs another, part"):
        found.restore({"part": Part(), "another": Part()})


def test_a_damaged_later_checkpoint_does_not_count_among_those_kept(tmp_path: Path) -> None:
    saved(tmp_path / "c", 5, 10, 15)
    cut(tmp_path / "c" / "step-000015" / "state.json")
    checkpoints = saved(tmp_path / "c", 12, keep=2)
    assert steps_in(tmp_path / "c") == [12, 10]
    assert checkpoints.newest()[1] == []


def test_weights_come_back_by_name_and_others_are_refused() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(2, 3)
    Weights({"a": second}, [second.weight]).load_state(
        {name: tensor.clone() for name, tensor in Weights({"a": first}, [first.weight]).state().items()}  # type: ignore[union-attr]
    )
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.bias, second.bias)
    with pytest.raises(ModelError, match=r"other weights than are trained here, first a\.bias"):
        Weights({"a": second}, [second.weight]).load_state(Weights({"a": first}, list(first.parameters())).state())
    wide = nn.Linear(4, 3)
    with pytest.raises(ModelError, match=r"a\.weight has shape \(3, 4\), the model needs \(3, 2\)"):
        Weights({"a": second}, [second.weight]).load_state(Weights({"a": wide}, [wide.weight]).state())


def drawn() -> list[float]:
    return [*torch.rand(3).tolist(), *np.random.normal(size=3).tolist(), *(random.gauss(0, 1) for _ in range(3))]


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    drawn()
    random.gauss(0, 1)  # one of a pair: the other waits in the state
    Checkpoints(tmp_path / "c", keep=1).save(1, {"random": RandomNumbers().state()})
    expected = drawn()
    drawn()
    found, _ = Checkpoints(tmp_path / "c", keep=1).newest()
    assert found is not None
    found.restore({"random": RandomNumbers()})
    assert drawn() == expected


def test_what_kills_leave_behind_is_swept(tmp_path: Path) -> None:
    saved(tmp_path / "c", 5)
    shutil.copytree(tmp_path / "c" / "step-000005", tmp_path / "c" / "step-000009.part")
    shutil.copytree(tmp_path / "c" / "step-000005", tmp_path / "c" / "step-000001.gone")
    assert steps_in(tmp_path / "c") == [5]
    saved(tmp_path / "c", 10)
    assert sorted(item.name for item in (tmp_path / "c").iterdir()) == ["step-000005", "step-000010"]


def sealed_with(folder: Path, states: str) -> None:
    """A checkpoint of step 7 with a whole seal around any text as its plain states."""
    sealed.write_sealed(folder / "step-000007", lambda part: (part / "state.json").write_text(states) and None)


@pytest.mark.parametrize("states", ["", "[]", '{"part": 1}', "[" * 100_000, '{"part": ' + "9" * 5_000 + "}"])
def test_a_whole_seal_around_something_else_is_passed_over(tmp_path: Path, states: str) -> None:
    checkpoints = saved(tmp_path / "c", 5)
    sealed_with(tmp_path / "c", states)
    found, passed = checkpoints.newest()
    assert found is not None
    assert found.step == 5
    assert [line.partition(": what")[0] for line in passed] == ["checkpoint of step 7 is not used"]


def test_a_manifest_of_endless_depth_is_damaged(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "c", 5)
    (tmp_path / "c" / "step-000005" / "manifest.json").write_text("[" * 100_000)
    assert checkpoints.newest() == (None, ["checkpoint of step 5 is not used: its manifest.json is missing or damaged"])


def test_a_part_that_cannot_go_on_from_what_is_there_is_named(tmp_path: Path) -> None:
    sealed_with(tmp_path / "c", '{"random": {"numpy_rest": 1}}')
    found, _ = Checkpoints(tmp_path / "c", keep=1).newest()
    assert found is not None
    with pytest.raises(ModelError, match="the checkpoint of step 7: random cannot go on from what it holds: 'torch'\n"):
        found.restore({"random": RandomNumbers()})


def test_one_that_is_kept_is_whole_when_the_newest_on_the_disk_is_damaged(tmp_path: Path) -> None:
    """A run that went on from 10, since 15 was damaged, and saved 20: of the two that stay one would be 15."""
    saved(tmp_path / "c", 10, 15)
    flip(tmp_path / "c" / "step-000015" / "part.safetensors")
    saved(tmp_path / "c", 20, keep=2)
    assert steps_in(tmp_path / "c") == [20, 10]


def test_one_that_was_cut_after_it_was_written_here_takes_no_place_either(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "c", 5, 10, keep=2)
    cut(tmp_path / "c" / "step-000010" / "part.safetensors")
    checkpoints.save(15, {"part": {"step": 15}})
    assert steps_in(tmp_path / "c") == [15, 5]


def test_the_only_good_one_stays_when_the_new_one_is_not_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = saved(tmp_path / "c", 5, keep=1)
    real = checkpoint.write_sealed

    def torn(folder: Path, fill: Callable[[Path], None]) -> None:
        real(folder, fill)
        cut(folder / "part.safetensors")

    monkeypatch.setattr(checkpoint, "write_sealed", torn)
    with pytest.raises(OSError, match=r"step-000010 is not as it was written: part\.safetensors has "):
        saved(tmp_path / "c", 10, keep=1)
    found, passed = checkpoints.newest()
    assert found is not None
    assert (found.step, len(passed)) == (5, 1)


def test_what_was_read_once_is_not_read_again_at_every_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def damage(folder: Path, *, content: bool = True) -> str | None:
        read.extend([folder.name] * content)
        return sealed.damage(folder, content=content)

    saved(tmp_path / "c", 5, 10, keep=3)
    monkeypatch.setattr(checkpoint, "damage", damage)
    saved(tmp_path / "c", 15, 20, keep=3)
    assert read == ["step-000010", "step-000005"]


def test_an_old_one_that_cannot_be_removed_is_said_and_the_new_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        if folder.name == "step-000005":
            raise PermissionError(13, "Permission denied")
        sealed.remove_sealed(folder)

    checkpoints = saved(tmp_path / "c", 5, keep=1)
    monkeypatch.setattr(checkpoint, "remove_sealed", refuse)
    lines = checkpoints.save(10, {"part": {"step": 10}})
    assert lines == ["the checkpoint of step 5 cannot be removed: [Errno 13] Permission denied"]
    assert steps_in(tmp_path / "c") == [10, 5]
