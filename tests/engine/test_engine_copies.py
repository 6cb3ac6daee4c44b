"""Copies of states: equal, apart from what was copied, and in the memory of the copy before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posttrain.engine.copies import Copies
from posttrain.types import State


def tensors(state: State) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def test_a_copy_stays_what_it_was_when_the_state_goes_on() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    part = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    with torch.inference_mode():
        inferred = torch.ones(2)
    state: State = {
        "whole": whole,
        "view": whole[1:, ::2],
        "part": part,
        "inferred": inferred,
        "scalar": torch.tensor(3),
    }
    expected = {name: value.detach().clone() for name, value in tensors(state).items()}
    made = Copies().of({"a": {**state, "number": 0.1, "text": ["x"]}, "b": {}})
    whole.zero_()
    with torch.no_grad():
        part.zero_()
    assert (made["a"]["number"], made["a"]["text"], made["b"]) == (0.1, ["x"], {})
    found = tensors(made["a"])
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert (value.dtype, value.requires_grad) == (expected[name].dtype, False)
        assert torch.equal(value, expected[name])
    assert len({value.untyped_storage().data_ptr() for value in found.values()}) == len(found)


def test_memory_is_used_again_where_shapes_are_as_before_and_given_back_where_not() -> None:
    copies = Copies()
    first = tensors(copies.of({"a": {"x": torch.zeros(3), "y": torch.zeros(3), "z": torch.zeros(3)}})["a"])
    places = {name: value.data_ptr() for name, value in first.items()}
    second = tensors(copies.of({"a": {"x": torch.ones(3), "y": torch.ones(4)}})["a"])
    assert second["x"].data_ptr() == places["x"]
    assert second["x"].tolist() == [1, 1, 1]
    assert second["y"].tolist() == [1, 1, 1, 1]
    third = tensors(copies.of({"a": {"z": torch.ones(3, dtype=torch.int64)}})["a"])
    assert third["z"].dtype == torch.int64
