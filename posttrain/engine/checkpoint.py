"""Checkpoints: the state of every part of a run as safetensors and JSON, without pickle."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from posttrain.engine.sealed import damage, remove_sealed, step_folder, steps_in, sweep, write_sealed
from posttrain.errors import ModelError, PosttrainError
from posttrain.models.precision import master_of, set_values
from posttrain.types import JSON, State, Stateful

_PLAIN = "state.json"
# What a state of another shape than a part's own ends in, where the part does not look for it.
_OTHER_STATE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint in memory: the state of each part after `step` updates."""

    step: int
    states: Mapping[str, State]

    def restore(self, parts: Mapping[str, Stateful]) -> None:
        """Every part goes on from its state.

        Raises ModelError when the run has other parts than were saved, or a part cannot go on from what is there.
        """
        if self.states.keys() != parts.keys():
            there, here = ", ".join(sorted(self.states)), ", ".join(sorted(parts))
            raise ModelError(f"the checkpoint of step {self.step} holds {there}; this run needs {here}")
        for name, part in parts.items():
            try:
                part.load_state(self.states[name])
            except PosttrainError:  # in plain words already
                raise
            except _OTHER_STATE as error:
                what = f"the checkpoint of step {self.step}: {name} cannot go on from what it holds"
                why = " ".join(str(error).split()) or type(error).__name__
                raise ModelError(f"{what}: {why}\n  fix: --fresh, or the posttrain that wrote it") from error


class Checkpoints:
    """The checkpoints of one run, `step-000123` and so on; the newest `keep` whole ones stay."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._known: set[int] = set()

    def save(self, step: int, states: Mapping[str, State]) -> list[str]:
        """Writes the states of all parts; older ones go only when it stands, whole. Lines to say of those that do not.

        Raises OSError, with what was there before left as it was.
        """
        folder = step_folder(self._folder, step)
        try:
            sweep(self._folder)
            write_sealed(folder, lambda part: _write(part, states))
            wrong = damage(folder, content=False)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                sweep(self._folder)
            raise OSError(f"{folder} cannot be written: {error}") from error
        if wrong is not None:
            raise OSError(f"{folder} is not as it was written: {wrong}")
        self._known.add(step)
        return list(self._tidied(step))

    def newest(self) -> tuple[Saved | None, list[str]]:
        """The newest whole checkpoint, None when there is none, and a line for each damaged one passed over."""
        passed: list[str] = []
        for step in steps_in(self._folder):
            folder = step_folder(self._folder, step)
            wrong = damage(folder)
            if wrong is None:
                try:
                    return Saved(step, _read(folder)), passed
                except (OSError, SafetensorError, ValueError, RecursionError) as error:
                    wrong = f"what it holds cannot be read: {str(error).splitlines()[0]}"
            passed.append(f"checkpoint of step {step} is not used: {wrong}")
        return None, passed

    def _tidied(self, step: int) -> Iterator[str]:
        """Removes all but the newest whole ones, once that of `step` stands; lines on what cannot be removed.

        One of a later step is damaged, or of a course that was given up, and a damaged one takes no place of a whole.
        """
        kept = 0
        for other in steps_in(self._folder):
            stays = other <= step and kept < self._keep and self._whole(other)
            kept += stays
            if not stays:
                try:
                    remove_sealed(step_folder(self._folder, other))
                except OSError as error:
                    yield f"the checkpoint of step {other} cannot be removed: {error}"

    def _whole(self, step: int) -> bool:
        """Whether a checkpoint can be gone on from. One that was written or read here is not read again."""
        folder = step_folder(self._folder, step)
        if damage(folder, content=step not in self._known) is not None:
            return False
        self._known.add(step)
        return True


def _write(folder: Path, states: Mapping[str, State]) -> None:
    """One file of tensors for each part that has any, and one of everything else."""
    plain: dict[str, dict[str, JSON]] = {}
    for name, state in states.items():
        plain[name] = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        if tensors:
            save_file(_apart(tensors), folder / f"{name}.safetensors")
    (folder / _PLAIN).write_text(json.dumps(plain), encoding="utf-8")


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, none of which shares memory with another: the file format refuses that."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        alone = tensor.detach().cpu().contiguous()
        whole = alone.untyped_storage().nbytes() == alone.nbytes
        if not whole or alone.data_ptr() in seen:
            alone = alone.clone()
        seen.add(alone.data_ptr())
        found[name] = alone
    return found


def _read(folder: Path) -> dict[str, State]:
    """The state of each part. Raises OSError, SafetensorError or ValueError for what no checkpoint holds."""
    plain = cast("dict[str, State]", json.loads((folder / _PLAIN).read_text(encoding="utf-8")))
    if type(plain) is not dict or not all(type(state) is dict for state in plain.values()):
        raise ValueError(f"{_PLAIN} is no object of the parts' states")
    for name, state in plain.items():
        file = folder / f"{name}.safetensors"
        if file.is_file():
            # Copies: what is read lies in the file's memory at any offset, and kernels may round by alignment.
            state.update({key: tensor.clone() for key, tensor in load_file(file).items()})
    return plain


# --- the states that no part of a run keeps for itself --------------------------------------------------------------


class Weights:
    """The trained parameters by name, as a state."""

    def __init__(self, models: Mapping[str, nn.Module], trained: Sequence[nn.Parameter]) -> None:
        names: dict[int, str] = {}
        for label, model in models.items():
            for name, parameter in model.named_parameters():
                names.setdefault(id(parameter), f"{label}.{name}")
        self._parameters = {names[id(parameter)]: parameter for parameter in trained}

    def state(self) -> State:
        """Every trained parameter, of one in half precision its master."""
        return {name: master_of(parameter) for name, parameter in self._parameters.items()}

    def load_state(self, state: State) -> None:
        """The parameters get the values of `state`, in place. Raises ModelError when names or shapes are others."""
        if state.keys() != self._parameters.keys():
            other = sorted(state.keys() ^ self._parameters.keys())
            raise ModelError(f"the checkpoint holds other weights than are trained here, first {other[0]}")
        for name, parameter in self._parameters.items():
            value = cast("Tensor", state[name])
            if value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)}, the model needs {tuple(parameter.shape)}"
                raise ModelError(f"the checkpoint's {name} has shape {shapes}")
            set_values(parameter, value)


class RandomNumbers:
    """The process-wide random states of torch (dropout draws from it), numpy and Python."""

    def state(self) -> State:
        """Where each generator stands."""
        found: State = {"torch": torch.get_rng_state()}
        for number, device in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ()):
            found[f"cuda.{number}"] = device
        _, keys, place, has_gauss, gauss = cast("tuple[str, Any, int, int, float]", np.random.get_state())
        found["numpy"], found["numpy_rest"] = torch.from_numpy(keys.astype(np.int64)), [place, has_gauss, gauss]
        version, numbers, after = random.getstate()
        found["python"], found["python_rest"] = list(numbers), [version, after]
        return found

    def load_state(self, state: State) -> None:
        """The generators go on from there; GPUs that were not there keep their own state."""
        torch.set_rng_state(cast("Tensor", state["torch"]))
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            if f"cuda.{number}" in state:
                torch.cuda.set_rng_state(cast("Tensor", state[f"cuda.{number}"]), number)
        keys = cast("Tensor", state["numpy"]).numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, *cast("list[Any]", state["numpy_rest"])))
        version, after = cast("list[Any]", state["python_rest"])
        random.setstate((version, tuple(cast("list[int]", state["python"])), after))
