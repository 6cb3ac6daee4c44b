"""The doctor: each way in which a template, a tokenizer or rows spoil what is trained, found and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from text_families import gemma3, llama31
from text_tokenizers import (
    LLAMA2,
    LLAMA3,
    QWEN3,
    UNENDED,
    byte_level,
    chatml,
    codec_of,
    gpt2,
    llama3,
    sentencepiece,
    talk,
)

from posttrain.errors import DataError, ModelError
from posttrain.text.chat import Codec
from posttrain.text.diagnosis import Diagnosis, Fact, refuse
from posttrain.text.doctor import Examination, diagnose
from posttrain.types import ChatRecord, Message, PromptRecord, RankedRecord, TextRecord

ROW = talk("Hi", "Hello there", "More", "Fine.")


def fact(found: Diagnosis, name: str) -> Fact:
    [one] = [fact for fact in found.facts if fact.name == name]
    return one


def names(found: Diagnosis, verdict: str) -> set[str]:
    return {fact.name for fact in found.facts if fact.verdict == verdict}


def test_a_good_model_is_told_to_be_good_with_every_turn_counted(tmp_path: Path) -> None:
    found = diagnose(codec_of(llama3(), tmp_path), [ROW, talk("Hi", "Hello", id="row:2")])
    assert found.rows == 2
    assert [fact.what for fact in found.facts] == [
        "generation stops on <|end_of_text|> <|eot_id|>",
        "one <|begin_of_text|> at the beginning",
        "end-of-turn <|eot_id|> is trained (3 turns)",
        "generation prompt is a prefix",
    ]
    refuse(found)


def test_a_stop_id_that_is_ordinary_text_is_told(tmp_path: Path) -> None:
    codec = codec_of(llama3(), tmp_path)
    letter = codec.words.encode("a")[0]
    found = diagnose(replace(codec, stop_ids=codec.stop_ids | {letter}), [ROW])
    assert fact(found, "ordinary stops").what == (
        "generation also stops on 'a': ordinary text, where answers would break off"
    )


def test_an_end_that_no_rendering_holds_is_never_trained_and_refused(tmp_path: Path) -> None:
    codec = codec_of(byte_level(eos="<|endoftext|>", template=UNENDED), tmp_path)
    assert names(diagnose(codec, [ROW]), "refuse") == set()
    found = diagnose(codec, [ROW], loss_on="all")
    assert names(found, "refuse") == {"end trained"}
    with pytest.raises(DataError, match=r"row:1  end-of-turn <\|endoftext\|> is never trained"):
        refuse(found)


def test_conversations_that_are_cut_lose_their_end(tmp_path: Path) -> None:
    codec = codec_of(gpt2(), tmp_path)
    [span] = codec.conversation(ROW)
    first = span.tokens.index(codec.end_of_turn)
    cut = diagnose(codec, [ROW], cut=first + 1)
    assert fact(cut, "end trained").what == "end-of-turn <|endoftext|> is trained on 1 of 2 turns only"
    assert fact(cut, "end trained").verdict == "note"
    assert fact(diagnose(codec, [ROW], cut=first), "end trained").verdict == "refuse"
    nothing = diagnose(codec, [ROW], cut=3)
    assert "raise max_length" in fact(nothing, "cut away").fix


def test_a_template_that_begins_twice_is_refused(tmp_path: Path) -> None:
    tokenizer = llama3()
    tokenizer.chat_template = "{{- bos_token }}" + LLAMA3
    found = diagnose(codec_of(tokenizer, tmp_path), [ROW])
    assert names(found, "refuse") == {"doubled"}
    with pytest.raises(ModelError, match=r"begin with <\|begin_of_text\|> twice.*\n  fix: take bos_token out"):
        refuse(found)


def test_a_template_that_leaves_the_beginning_out_is_told(tmp_path: Path) -> None:
    tokenizer = llama3()
    tokenizer.chat_template = LLAMA3.replace("{{- bos_token }}", "")
    assert names(diagnose(codec_of(tokenizer, tmp_path), [ROW]), "note") == {"beginning"}


def test_rows_that_were_rendered_before_are_refused_and_a_stray_one_is_told(tmp_path: Path) -> None:
    codec = codec_of(sentencepiece(), tmp_path)
    rendered = TextRecord(id="row:1", text="<s>Once upon a time</s>")
    plain = [TextRecord(id=f"row:{number}", text="Once upon a time") for number in range(2, 41)]
    alone = diagnose(codec, [rendered])
    assert names(alone, "refuse") == {"doubled"}
    assert fact(alone, "doubled").place == "row:1"
    assert fact(alone, "spelt").what == "control tokens such as <s> are spelt in 1 row, and act as such there"
    among = diagnose(codec, [rendered, *plain])
    assert not among.refusals
    assert fact(among, "doubled").rows == 1


def test_rows_without_anything_to_train_are_told_and_refused_when_they_are_all(tmp_path: Path) -> None:
    codec = codec_of(gpt2(), tmp_path)
    silent = ChatRecord(id="row:9", messages=(ROW.messages[0], Message(role="assistant", content="One", train=False)))
    found = diagnose(codec, [silent, ROW])
    assert (fact(found, "silent").verdict, fact(found, "silent").place) == ("note", "row:9")
    assert names(diagnose(codec, [silent]), "refuse") == {"silent"}


def test_a_template_that_writes_nothing_trains_nothing(tmp_path: Path) -> None:
    short = "{% if messages | length < 3 %}{{ messages[-1]['content'] }}{% endif %}"
    codec = codec_of(byte_level(eos="<|endoftext|>", template=short), tmp_path)
    assert "untrained" in names(diagnose(codec, [ROW], loss_on="all"), "refuse")


def test_empty_answers_are_told(tmp_path: Path) -> None:
    for place, tokenizer in enumerate((llama3(), gpt2())):
        found = diagnose(codec_of(tokenizer, tmp_path / str(place)), [talk("Hi", " "), ROW])
        assert fact(found, "bare").rows == 1


def test_an_end_without_a_place_in_the_model_is_refused(tmp_path: Path) -> None:
    codec = codec_of(llama3(), tmp_path)
    assert not diagnose(codec, [ROW], embedding=codec.vocab_size).refusals
    found = diagnose(codec, [ROW], embedding=2)
    assert names(found, "refuse") == {"end learnable"}
    assert "the model's embedding has 2 rows" in fact(found, "end learnable").what


def test_an_end_that_is_the_unknown_token_is_refused(tmp_path: Path) -> None:
    tokenizer = sentencepiece(template="{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}")
    tokenizer.eos_token = "<unk>"
    codec = codec_of(tokenizer, tmp_path)
    assert "end learnable" in names(diagnose(codec, [ROW]), "refuse")
    assert "end learnable" in names(diagnose(codec, [TextRecord(id="t", text="Once")]), "refuse")


def test_padding_with_the_end_changes_nothing_and_says_so(tmp_path: Path) -> None:
    tokenizer = gpt2()
    tokenizer.pad_token = "<|endoftext|>"
    found = diagnose(codec_of(tokenizer, tmp_path), [ROW])
    assert fact(found, "padding").verdict == "ok"
    assert fact(found, "end trained").verdict == "ok"


def test_rewritten_history_names_its_first_row_and_the_samples_it_adds(tmp_path: Path) -> None:
    codec = codec_of(chatml(QWEN3), tmp_path)
    thinking = talk("Hi", "<think>hm</think>Hello", "More", "Fine.", id="row:3")
    found = diagnose(codec, [talk("Hi", "Hello", id="row:2"), thinking])
    assert fact(found, "rewritten").place == "row:3"
    assert "in 1 row:" in fact(found, "rewritten").what
    assert "(+1)" in fact(found, "rewritten").what
    assert fact(found, "rewritten texts").rows == 1


def test_a_template_that_ends_no_turn_adds_samples_only_where_there_are_several_answers(tmp_path: Path) -> None:
    codec = codec_of(byte_level(eos="<|endoftext|>", template=UNENDED), tmp_path)
    found = diagnose(codec, [talk("Hi", "Hello", id="row:2"), talk("Hi", "Hello", "More", "Fine.", id="row:3")])
    rewritten = fact(found, "rewritten")
    assert (rewritten.rows, rewritten.place) == (1, "row:3")
    assert "in 1 row:" in rewritten.what
    assert "(+1)" in rewritten.what
    assert fact(found, "end trained").what.endswith("is trained (3 turns)")


def test_one_answer_that_generation_would_see_after_another_prompt_adds_no_samples(tmp_path: Path) -> None:
    thinks = UNENDED.replace("assistant:{", "assistant: <think>{")
    codec = codec_of(byte_level(eos="<|endoftext|>", template=thinks.replace("+ '\n'", "+ eos_token")), tmp_path)
    found = diagnose(codec, [talk("Hi", "Hello", id="row:2")])
    assert "rewritten" not in names(found, "note")
    assert (
        fact(found, "other prompt").what == "generation begins answers otherwise than the template writes them in 1 row"
    )


_SILENT = (
    "{% for m in messages %}{% if m['role'] != 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize("jinja", [_SILENT, UNENDED.replace("['content']", "['content'] | upper")])
def test_a_template_without_the_answers_as_they_were_given_is_refused(jinja: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the tokenizer's chat template  .*what the assistant says[^$]*fix: take an"):
        codec_of(byte_level(eos="<|endoftext|>", template=jinja), tmp_path)


def test_a_dropped_system_message_is_told(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] + ':' + m['content'] + eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    codec = codec_of(byte_level(eos="<|endoftext|>", template=template), tmp_path)
    record = ChatRecord(id="row:4", messages=(Message(role="system", content="Be kind."), *ROW.messages))
    found = diagnose(codec, [ROW, record])
    assert fact(found, "system dropped").what == "the template drops the system message of 1 row"
    assert fact(found, "system dropped").place == "row:4"


def test_conversations_that_the_template_refuses_are_counted_and_the_others_still_looked_at(tmp_path: Path) -> None:
    codec = codec_of(gemma3(), tmp_path)
    twice = ChatRecord(id="row:7", messages=(ROW.messages[0], *ROW.messages))
    examination = Examination(codec)
    assert [len(groups) for groups in examination.see([ROW, twice, ROW])] == [1, 0, 1]
    found = examination.diagnosis()
    assert names(found, "refuse") == {"refused"}
    assert fact(found, "end trained").what.endswith("(4 turns)")
    with pytest.raises(DataError, match=r"row:7  .*roles must alternate.*1 row"):
        refuse(found)


@pytest.mark.parametrize("jinja", ["{{ messages[0]['content'] + 3 }}", "{{ messages[9]['content'] }}", "{% for"])
def test_a_template_that_breaks_is_an_error_with_a_place(jinja: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the chat template  .*refuses this conversation"):
        codec_of(chatml(jinja), tmp_path)


def test_texts_that_a_template_trims_are_told(tmp_path: Path) -> None:
    found = diagnose(codec_of(llama31(), tmp_path), [talk("Hi ", "Hello"), ROW])
    assert names(found, "note") == {"trimmed"}
    assert fact(found, "trimmed").rows == 1


def test_the_share_of_unknown_tokens_is_told(tmp_path: Path) -> None:
    tokenizer = sentencepiece(template=LLAMA2)
    tokenizer.backend_tokenizer.model.byte_fallback = False
    codec = codec_of(tokenizer, tmp_path)
    found = diagnose(codec, [TextRecord(id="t:1", text="a"), TextRecord(id="t:2", text="我")])
    unknown = codec.text(TextRecord(id="t", text="我")).tokens.count(0)
    total = sum(len(codec.text(TextRecord(id="t", text=text)).tokens) for text in ("a", "我"))
    assert fact(found, "unknown").what.startswith(f"{unknown / total:.2%} of the tokens are unknown")
    assert fact(found, "unknown").place == "t:2"


def test_a_missing_generation_prompt_is_told(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    found = diagnose(codec_of(chatml(template), tmp_path), [ROW])
    assert "no generation prompt" in fact(found, "lead").what


def test_rankings_and_prompts_are_looked_at_too(tmp_path: Path) -> None:
    codec = codec_of(llama3(), tmp_path)
    question = ROW.messages[:1]
    ranked = RankedRecord(id="r:1", prompt=question, responses=("Yes", "No"), ranks=(1, 2))
    same = RankedRecord(id="r:2", prompt=question, responses=("Yes ", "Yes"), ranks=(1, 2))
    cut = RankedRecord(id="r:3", prompt=question, responses=("Yes", "No"), ranks=(1, 2), stopped=(False, True))
    found = diagnose(codec, [ranked, same, cut])
    assert fact(found, "end trained").what.endswith("(5 turns)")
    assert fact(found, "cut answers").rows == 1
    assert (fact(found, "same answers").rows, fact(found, "same answers").place) == (1, "r:2")
    asked = diagnose(codec, [PromptRecord(id="p", messages=question)])
    assert names(asked, "ok") == {"stops", "beginning"}
    assert not diagnose(codec, [PromptRecord(id="p", text="Once upon")]).facts


def test_looking_in_pieces_is_looking_at_all(tmp_path: Path) -> None:
    codec = codec_of(chatml(QWEN3), tmp_path)
    rows = [
        talk("Hi", "<think>a</think>b", "More", f"Fine {number}<|im_end|>", id=f"row:{number}") for number in range(5)
    ]
    pieces = Examination(codec)
    for row in rows:
        pieces.see([row])
    assert pieces.diagnosis() == diagnose(codec, rows)
    assert codec.losses.breaks == codec.losses.rewritten == 0


def test_real_stories_pass(stories_model: Path) -> None:
    codec = Codec.load(stories_model)
    found = diagnose(codec, [ROW, TextRecord(id="t", text="Once upon a time")])
    assert not found.refusals
    assert not found.notes
