"""Model folders of others: what is damaged is named, and what reaches out of the folder or asks for code is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from posttrain.errors import ModelError
from posttrain.models.adapters import LoraSpec, attach
from posttrain.models.checked import check_shards, shape_of
from posttrain.models.heads import Policy
from posttrain.models.load import base_of, load_causal, save_causal
from posttrain.models.parity import gate_policy

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def altered(file: Path, **facts: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"hidden_size": "big"}, "Validation error for field 'hidden_size': TypeError: Field 'hidden_size' expected"),
        ({"num_attention_heads": 0}, "has no usable config.json: integer modulo by zero"),
        ({"model_type": 5}, "has no usable config.json: The checkpoint you are trying to load has model type `5`"),
        ({"dtype": "os.system('x')"}, "has no usable config.json: module 'torch' has no attribute"),
        ({"num_hidden_layers": 10**9}, "its config.json says 1,000,000,000 layers, which no model has"),
        ({"attn_implementation": "a/b"}, "its config.json asks for the attention a/b, code of the hub, which is never"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_with_its_reason(
    facts: dict[str, object], says: str, folder: Path
) -> None:
    altered(folder / "config.json", **facts)
    with pytest.raises(ModelError, match=re.escape(says)) as caught:
        shape_of(str(folder))
    assert "\n  fix: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "config.json cannot be read as JSON: Expecting property name"),
        (b"[]", "config.json holds a list, expected an object"),
        (b"\xff", "config.json cannot be read as JSON: 'utf-8' codec"),
    ],
)
def test_a_config_that_is_no_json_is_named(content: bytes, says: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(says)):
        shape_of(str(folder))


def other_shape(folder: Path) -> None:
    altered(folder / "config.json", vocab_size=2**40)


def not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("size", [0, 5, 300, -100])
def test_weights_that_are_cut_are_named_wherever_the_cut_is(size: int, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be loaded: .*\n  fix: copy the folder again"):
        load_causal(str(folder))


@pytest.mark.parametrize("start", [b"\xff" * 8, (2**62).to_bytes(8, "little"), (60).to_bytes(8, "little")])
def test_weights_with_a_false_header_are_named(start: bytes, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(start + file.read_bytes()[8:])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be loaded: "):
        load_causal(str(folder))


def test_weights_of_other_shapes_than_the_config_says_are_refused(folder: Path) -> None:
    other_shape(folder)
    with pytest.raises(ModelError, match=r"its weights have other shapes than its config\.json says"):
        load_causal(str(folder))


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "deep/model.safetensors", "..", "model.safetensors/", ""]
)
def test_an_index_cannot_name_a_file_outside_its_folder(name: str, folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ModelError, match=re.escape(f"{INDEX}  names {name}, which is no")):
        load_causal(str(folder))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"weight_map": {"a": "gone.safetensors"}}, "names gone.safetensors, which is not there"),
        ({"weight_map": []}, "weight_map is [], which it cannot be"),
        ([], "holds a list, expected an object"),
    ],
)
def test_a_damaged_index_is_named(index: object, says: str, folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=re.escape(f"{INDEX}  {says}")):
        check_shards(folder)


def test_what_is_whole_passes(folder: Path) -> None:
    check_shards(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    check_shards(folder)
    assert shape_of(str(folder)).num_hidden_layers == 2


@pytest.mark.parametrize("route", [("a",), ("a", "b")], ids=["itself", "each other"])
def test_adapters_that_stand_on_each_other_are_refused(route: tuple[str, ...], tmp_path: Path) -> None:
    for name, below in zip(route, [*route[1:], route[0]], strict=True):
        (tmp_path / name).mkdir()
        facts = {"base_model_name_or_path": str(tmp_path / below)}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="is an adapter that stands on itself"):
        base_of(str(tmp_path / "a"))


@pytest.mark.parametrize(
    "facts",
    [
        {"r": -1},
        {"target_modules": {"a": {"b": 5}}},
        {"peft_type": "EVIL"},
        {"lora_alpha": "x"},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_an_adapter_whose_config_was_altered_is_refused(facts: dict[str, object], folder: Path, tmp_path: Path) -> None:
    loaded = load_causal(str(folder))
    attach(loaded.model, "policy", LoraSpec(rank=2, alpha=4.0))
    save_causal(loaded, ("policy",), tmp_path / "adapter", stop_ids=frozenset([1]))
    load_causal(str(tmp_path / "adapter"))
    altered(tmp_path / "adapter" / "adapter_config.json", **facts)
    with pytest.raises(ModelError, match=r"adapter_config\.json  (is no adapter's|LoRA cannot be attached|is of)"):
        load_causal(str(tmp_path / "adapter"))


def test_an_adapter_whose_weights_are_cut_is_named(folder: Path, tmp_path: Path) -> None:
    loaded = load_causal(str(folder))
    attach(loaded.model, "policy", LoraSpec(rank=2, alpha=4.0))
    save_causal(loaded, ("policy",), tmp_path / "adapter", stop_ids=frozenset([1]))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors cannot be read: "):
        load_causal(str(tmp_path / "adapter"))


def test_weights_that_are_no_numbers_are_said_to_be_damaged(folder: Path) -> None:
    not_a_number(folder)
    loaded = load_causal(str(folder))
    with pytest.raises(ModelError, match="its outputs are not finite: the weights are damaged"):
        gate_policy(Policy(loaded.model, stack=loaded.stack), loaded.own_attention)
