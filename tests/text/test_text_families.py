"""Current families of templates: what is trained of two turns, and what generation sees and stops on."""

from __future__ import annotations

from pathlib import Path

import pytest
from text_families import FAMILIES, gemma3, mistral_v3, qwen3
from text_tokenizers import codec_of, gpt2, marked, talk

from posttrain.text.doctor import diagnose
from posttrain.types import ChatRecord, Message, PromptRecord

ROW = talk("Hi", "Hello there", "More", "Fine.")


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_answers_and_their_ends_are_trained(family: str, tmp_path: Path) -> None:
    codec = codec_of(FAMILIES[family].make(), tmp_path)
    assert tuple(marked(codec, span) for span in codec.conversation(ROW)) == FAMILIES[family].samples
    assert codec.losses.breaks == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_sees_what_stands_before_a_trained_answer_and_stops_on_its_end(family: str, tmp_path: Path) -> None:
    codec = codec_of(FAMILIES[family].make(), tmp_path)
    assert {codec.words.spelling(token) for token in codec.stop_ids} == set(FAMILIES[family].stops)
    *_, last = codec.conversation(ROW, loss_on="completion")
    prompt = codec.prompt(PromptRecord(id="p", messages=ROW.messages[:3]))
    first = last.trained.index(True)
    assert last.tokens[:first] == prompt.tokens
    assert last.tokens[-1] == codec.end_of_turn in codec.stop_ids
    assert codec.decode(last.tokens[first:], prompt) == "Fine."


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_begins_once(family: str, tmp_path: Path) -> None:
    codec = codec_of(FAMILIES[family].make(), tmp_path)
    for span in codec.conversation(ROW):
        assert codec.bos is None or span.tokens.count(codec.bos) == 1
        assert codec.bos is None or span.tokens[0] == codec.bos


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["Hello there", "a line\n\nand 我们 🙂", "  two spaces", "Hello.\n", "4"])
def test_decoding_gives_the_text_back(family: str, text: str, tmp_path: Path) -> None:
    codec = codec_of(FAMILIES[family].make(), tmp_path)
    record = PromptRecord(id="p", messages=ROW.messages[:1])
    decoded = codec.decode(codec.answer(record, text), codec.prompt(record))
    assert decoded == (text.strip() if FAMILIES[family].trims else text)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_doctor_finds_nothing_wrong(family: str, tmp_path: Path) -> None:
    codec = codec_of(FAMILIES[family].make(), tmp_path)
    found = diagnose(codec, [ROW, talk("Hi", "Hello")])
    # Qwen 3 rewrites history and puts a thought before every answer: to be known, not to be mended
    expected = {"rewritten", "lead"} if family == "qwen-3" else set[str]()
    assert {fact.name for fact in found.notes} == expected
    assert not found.refusals
    assert codec.losses.rewritten == 0


def test_a_base_model_gets_the_plain_template_and_is_told(tmp_path: Path) -> None:
    codec = codec_of(gpt2(), tmp_path)
    found = diagnose(codec, [ROW])
    assert found.template == "built-in plain"
    assert "the tokenizer has no template of its own" in [fact.what for fact in found.facts]
    assert not found.notes
    assert not found.refusals


def test_a_system_text_that_stands_before_the_last_question_only_makes_samples_of_their_own(tmp_path: Path) -> None:
    codec = codec_of(mistral_v3(), tmp_path)
    record = ChatRecord(id="r", messages=(Message(role="system", content="Be kind."), *ROW.messages))
    assert [marked(codec, span) for span in codec.conversation(record)] == [
        "<s>[INST] Be kind.\n\nHi[/INST]⟦ Hello there</s>⟧",
        "<s>[INST] Hi[/INST] Hello there</s>[INST] Be kind.\n\nMore[/INST]⟦ Fine.</s>⟧",
    ]
    found = diagnose(codec, [record])
    assert [fact.name for fact in found.notes] == ["rewritten"]


def test_a_system_text_is_folded_into_the_first_question_where_there_is_no_such_role(tmp_path: Path) -> None:
    codec = codec_of(gemma3(), tmp_path)
    record = ChatRecord(id="r", messages=(Message(role="system", content="Be kind."), *ROW.messages[:2]))
    [span] = codec.conversation(record)
    assert marked(codec, span) == (
        "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello there<end_of_turn>⟧"
    )
    assert not diagnose(codec, [record]).notes


def test_thoughts_are_trained_where_they_are_thought_and_gone_from_history(tmp_path: Path) -> None:
    codec = codec_of(qwen3(), tmp_path)
    first, second = codec.conversation(talk("Hi", "<think>\nhm\n</think>\n\nHello", "More", "Fine."))
    assert marked(codec, first).endswith("assistant\n⟦<think>\nhm\n</think>\n\nHello<|im_end|>⟧")
    assert "hm" not in marked(codec, second)
