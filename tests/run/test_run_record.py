"""What a run remembers of the models it starts from, and whether a change of them makes it another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from posttrain.config import SFTConfig, make_config
from posttrain.errors import RunExists
from posttrain.run import Run, RunWriter
from posttrain.run.record import new_record, processor


def settings(out: Path, model: Path) -> SFTConfig:
    return make_config(SFTConfig, {"model": model, "data": "d.jsonl", "out": out})


def trained(out: Path, model: Path, lineage: Mapping[str, str] | None = None) -> Run:
    """A finished run with one step and a model file."""
    with RunWriter.create(out, settings(out, model), lineage=lineage) as writer:
        writer.metrics(1, {"loss": 2.0})
        (out / "model.safetensors").write_bytes(b"weights")
        return writer.finish()


def test_a_start_model_that_a_run_wrote_goes_by_its_content_but_not_by_its_card(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "sft"
    trained(base, base)
    weights, card, extra = base / "model.safetensors", base / "README.md", base / "report.html"
    for file in (weights, card, extra):
        file.write_text("one")
    config, lineage = settings(out, base), {"model": str(base)}
    trained(out, base, lineage)
    for file in (card, extra, base / "run" / "log.txt"):
        file.write_text("two")
    assert RunWriter.create(out, config, lineage=lineage).finished
    weights.write_text("two")
    with pytest.raises(RunExists, match=r"model: the files of .*base changed"):
        RunWriter.create(out, config, lineage=lineage)
    record = json.loads((out / "run" / "run.json").read_text())
    del record["parents"]["model"]["content"]  # as an earlier version wrote it
    (out / "run" / "run.json").write_text(json.dumps(record))
    assert RunWriter.create(out, config, lineage=lineage).finished


def test_what_an_adapter_stands_on_belongs_to_the_run_too(tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "sft"
    for folder, name in ((base, "model.safetensors"), (adapter, "adapter_model.safetensors")):
        folder.mkdir()
        (folder / name).write_text("one")
    card = adapter / "adapter_config.json"
    card.write_text(json.dumps({"base_model_name_or_path": str(base)}))
    config, lineage = settings(out, adapter), {"model": str(adapter)}
    trained(out, adapter, lineage)
    assert RunWriter.create(out, config, lineage=lineage).finished
    (base / "model.safetensors").write_text("two")
    with pytest.raises(RunExists, match=r"model: the files of the model that .*adapter stands on changed"):
        RunWriter.create(out, config, lineage=lineage)
    record = json.loads((out / "run" / "run.json").read_text())
    del record["parents"]["model"]["base"]
    (out / "run" / "run.json").write_text(json.dumps(record))
    assert RunWriter.create(out, config, lineage=lineage).finished


@pytest.mark.parametrize("name", ["no/such", "/", "self", "x" * 5000, "\0", 7])
def test_an_adapter_whose_base_cannot_be_read_is_recorded_without_it(tmp_path: Path, name: object) -> None:
    card = tmp_path / "adapter" / "adapter_config.json"
    card.parent.mkdir()
    base = str(card.parent) if name == "self" else name
    card.write_text(json.dumps({"base_model_name_or_path": base}))
    record = new_record(settings(tmp_path / "sft", card.parent), {"model": str(card.parent)}, [])
    assert record["parents"]["model"].keys() - {"base"} == {"name", "content"}


def test_the_processor_is_named_as_the_system_names_it() -> None:
    name, file = processor(), Path("/proc/cpuinfo")
    if file.is_file() and "model name" in (said := file.read_text()):
        assert name
        assert f": {name}\n" in said
