"""Settings files that are no settings: values that spell nothing, bombs of aliases, names that no file can have."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.config import CheckConfig, SFTConfig, dump, load_config, make_config
from posttrain.config.document import read, scalar
from posttrain.errors import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2024-13-45\n", ":2  is not YAML: '2024-13-45' cannot be read as timestamp: month must be in 1..12"),
        (
            "a:\n- {b: !!float x}\n",
            ":2  is not YAML: 'x' cannot be read as float: could not convert string to float: 'x'",
        ),
        ("a: !!bool x\n", ":1  is not YAML: 'x' cannot be read as bool"),
        (
            f"a: {'9' * 5000}\n",
            ":1  is not YAML: '999999999999999999999999999999999999999 cannot be read as int: Exceeds",
        ),
        (f"a: {'[' * 500}{']' * 500}\n", "  is not YAML: it is nested too deeply"),
        (BOMB, "  is not YAML: with its aliases written out it has more than 100,000 values"),
    ],
)
def test_what_yaml_cannot_read_is_said_with_its_line_where_there_is_one(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as told:
        read(file)
    assert str(told.value).startswith(f"{file}{says}")


def test_an_anchor_may_be_used_and_be_used_again(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &x [1, 2]\nb: *x\nc: &x 3\nd: *x\n")
    assert read(tmp_path / "x.yaml").values == {"a": [1, 2], "b": [1, 2], "c": 3, "d": 3}


@pytest.mark.parametrize("text", ["!!float x", "9" * 5000, "[" * 500, "2024-13-45", "{a: b", "&a [*b]"])
def test_a_flag_that_is_no_yaml_is_text(text: str) -> None:
    assert scalar(text) == text


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("a\0b", "'a\\x00b' holds a zero byte, which no file's name can"),
        ("runs/" + "x" * 256, "is longer than a file's name may be"),
        ("é" * 128, "is longer than a file's name may be"),
        ("x/" * 4000, "is longer than a file's name may be"),
        (Path("caf\ud83d"), "holds half of a character, which no file's name can"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused_with_the_setting(path: str | Path, says: str) -> None:
    with pytest.raises(ConfigError, match="data") as told:
        make_config(CheckConfig, {"data": path})
    assert says in str(told.value)
    assert make_config(CheckConfig, {"data": "x" * 255}).data[0].path == "x" * 255


def test_a_whole_number_that_nothing_can_be_computed_with_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"model: m\ndata: d\nout: o\nlora:\n  rank: {2**63}\n")
    with pytest.raises(ConfigError) as told:
        load_config(SFTConfig, tmp_path / "x.yaml", {"steps": "-" + "9" * 400})
    assert f"{tmp_path / 'x.yaml'}:5  lora.rank: a whole number this large is more than any setting takes" in str(
        told.value
    )
    assert "--steps  steps: a whole number this large" in str(told.value)
    (tmp_path / "x.yaml").write_text(f"model: m\ndata: d\nout: o\nseed: {2**63 - 1}\n")
    assert load_config(SFTConfig, tmp_path / "x.yaml", {}).seed == 2**63 - 1


@pytest.mark.parametrize("name", ["precision", "optimizer", "schedule", "quantize", "packing", "lora"])
def test_a_list_where_a_word_belongs_is_said_in_plain_words(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: expected .*, got "):
        make_config(SFTConfig, {"model": "m", "data": "d", "out": "o", name: [[]]})


@pytest.mark.parametrize("given", [{"val_size": -(10**18) * 10**300}, {"evals_per_epoch": 10**15, "num_epochs": 1e308}])
def test_another_librarys_number_that_is_too_large_has_no_translation(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"unknown keyword|this large"):
        make_config(SFTConfig, {"model": "m", "data": "d", "out": "o", **given})


def test_a_name_in_another_encoding_is_kept_as_the_system_has_it(tmp_path: Path) -> None:
    made = make_config(CheckConfig, {"data": "caf\udce9.jsonl"})
    (tmp_path / "x.yaml").write_text(dump(made), encoding="utf-8")
    assert load_config(CheckConfig, tmp_path / "x.yaml", {}) == made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('"n\\ud83de": 1\n', ":4  n\\ud83de: its name holds half of a character"),
        ('samples: ["a", "b \\ud83d"]\n', ":4  samples: 'b \\ud83d' holds half of a character"),
    ],
)
def test_half_a_character_is_no_setting(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("model: m\ndata: d\nout: o\n" + text)
    with pytest.raises(ConfigError) as told:
        load_config(SFTConfig, file, {})
    assert str(told.value) == f"{file}{says}"
