"""Tokenizers loaded and asked, templates chosen and dated."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from text_tokenizers import CHATML, byte_level, chatml, codec_of, gpt2, sentencepiece, talk
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.errors import ModelError
from posttrain.text.chat import Codec
from posttrain.text.templates import freeze_dates
from posttrain.text.tokenizer import load_tokenizer, stop_ids_of


def test_a_folder_without_a_tokenizer_says_which_files_to_copy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no tokenizer\n  fix: copy tokenizer.json"):
        load_tokenizer(tmp_path)


def test_a_missing_folder_is_not_taken_for_a_hub_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        load_tokenizer(tmp_path / "runs" / "sft")


def test_a_tokenizer_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ModelError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read as JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
        ("[]", "holds a list, expected an object"),
        ("", "cannot be read as JSON: Expecting value: line 1 column 1"),
    ],
)
def test_a_damaged_file_of_a_tokenizer_is_named(file: str, content: str, says: str, tmp_path: Path) -> None:
    chatml().save_pretrained(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelError, match=rf"{file} {says}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "facts"),
    [
        ("tokenizer.json", {"model": 5}),
        ("tokenizer.json", {"model": {"type": "Evil"}}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["y", "z"]]}}),
        ("tokenizer_config.json", {"tokenizer_class": 5}),
        ("tokenizer_config.json", {"eos_token": 5}),
        ("tokenizer_config.json", {"auto_map": 5}),
        ("tokenizer_config.json", {"model_max_length": "long"}),
    ],
)
def test_a_tokenizer_with_altered_facts_is_refused(file: str, facts: dict[str, object], tmp_path: Path) -> None:
    chatml().save_pretrained(tmp_path)
    altered = {**json.loads((tmp_path / file).read_text()), **facts}
    (tmp_path / file).write_text(json.dumps(altered))
    with pytest.raises(ModelError, match=r"no tokenizer could be loaded from .*\n  fix: "):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "cannot be used: .*cannot be read as JSON"),
        ("[]", "cannot be used: .*holds a list, expected an object"),
        ('{"eos_token_id": "x"}', " eos_token_id is 'x', which it cannot be"),
        ('{"eos_token_id": [1, -1]}', " eos_token_id is -1, which it cannot be"),
    ],
)
def test_damaged_settings_of_generation_are_named(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"generation_config\.json {says}(.|\n)*fix: mend it, or delete it"):
        stop_ids_of(tmp_path)


def test_a_folder_without_settings_of_generation_names_no_end(tmp_path: Path) -> None:
    assert stop_ids_of(tmp_path) == frozenset()
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    assert stop_ids_of(tmp_path) == {1, 7}


def test_a_tokenizer_without_an_end_says_how_to_name_one(tmp_path: Path) -> None:
    tokenizer = gpt2()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no end-of-text token"):
        _ = load_tokenizer(tmp_path).eos


def test_a_declared_bos_that_the_tokenizer_never_adds_does_not_count(tmp_path: Path) -> None:
    tokenizer = chatml()
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).bos is None


@pytest.mark.parametrize("legacy", [True, False])
def test_text_in_the_middle_has_no_dummy_space(legacy: bool, tmp_path: Path) -> None:
    sentencepiece(legacy=legacy).save_pretrained(tmp_path)
    words = load_tokenizer(tmp_path)
    for text in ("time", " time", "\n\ntime", "我", "a"):
        assert words.decode_after(words.encode_after(text)) == text
    assert words.encode_after(" time") == words.encode("time")
    assert words.encode_after("time") != words.encode("time")


def test_dates_in_templates_stand_still() -> None:
    template = "{{ strftime_now('%d %b %Y') }} {{ strftime_now( \"%Y-%m-%d\" ) }} {{ date }}"
    assert freeze_dates(template, datetime.date(2025, 1, 2)) == "{{ '02 Jan 2025' }} {{ '2025-01-02' }} {{ date }}"


def test_a_dated_template_renders_the_same_date_when_saved(tmp_path: Path) -> None:
    codec = codec_of(chatml("{{ strftime_now('%Y') }}" + CHATML), tmp_path / "model")
    codec.save(tmp_path / "run")
    again = Codec.load(tmp_path / "run", date=datetime.date(1999, 1, 1))
    assert codec.conversation(talk("Hi", "Hello")) == again.conversation(talk("Hi", "Hello"))
    assert codec.words.decode_after(codec.conversation(talk("Hi", "Hello"))[0].tokens[:8]).startswith("2024")


def test_saving_leaves_the_loaded_tokenizer_as_it_was(tmp_path: Path) -> None:
    codec = codec_of(gpt2(), tmp_path / "model")
    codec.save(tmp_path / "run")
    assert codec.tokenizer.chat_template is None


def test_the_template_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(CHATML)
    tokenizer = byte_level("<|im_start|>", "<|im_end|>", eos="<|endoftext|>")
    codec = codec_of(tokenizer, tmp_path / "model", template=str(tmp_path / "mine.jinja"))
    assert codec.tokenizer.convert_ids_to_tokens(codec.end_of_turn) == "<|im_end|>"


def test_a_vocabulary_that_cannot_spell_the_plain_template_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "yes": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot spell the built-in one"):
        Codec.load(tmp_path)


def test_runs_of_spaces_that_a_tokenizer_added_control_nothing(tmp_path: Path) -> None:
    tokenizer = gpt2()
    tokenizer.add_tokens(["        "])
    tokenizer.save_pretrained(tmp_path)
    words = load_tokenizer(tmp_path)
    assert words.controls == {words.eos}
    assert words.controls_in("        indented") == ()
