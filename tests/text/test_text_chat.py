"""Conversations, rankings, texts and prompts as tokens, on tokenizers with the structure of well-known families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from text_tokenizers import (
    LLAMA2,
    QWEN3,
    UNENDED,
    byte_level,
    chatml,
    codec_of,
    gemma,
    gpt2,
    llama3,
    marked,
    mistral,
    phi3,
    sentencepiece,
    talk,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from posttrain.errors import DataError, ModelError
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, Message, PromptRecord, RankedRecord, TextRecord

Make = Callable[[], PreTrainedTokenizerFast]

FAMILIES: dict[str, tuple[Make, str]] = {
    "llama-3": (
        llama3,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello there<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nMore<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Fine.<|eot_id|>⟧",
    ),
    "chatml, as qwen and smollm": (
        chatml,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n⟦Hello there<|im_end|>⟧\n<|im_start|>user\nMore<|im_end|>\n"
        "<|im_start|>assistant\n⟦Fine.<|im_end|>⟧",
    ),
    "gemma": (
        gemma,
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello there<end_of_turn>⟧\n"
        "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n⟦Fine.<end_of_turn>⟧",
    ),
    "mistral": (mistral, "<s>[INST] Hi [/INST]⟦ Hello there</s>⟧[INST] More [/INST]⟦ Fine.</s>⟧"),
    "phi-3": (
        phi3,
        "<|user|>\nHi<|end|>\n<|assistant|>\n⟦Hello there<|end|>⟧\n"
        "<|user|>\nMore<|end|>\n<|assistant|>\n⟦Fine.<|end|>⟧",
    ),
    "gpt-2, built-in plain": (
        gpt2,
        "User: Hi\nAssistant:⟦ Hello there<|endoftext|>⟧User: More\nAssistant:⟦ Fine.<|endoftext|>⟧",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_only_answers_and_their_end_of_turn_are_trained(family: str, tmp_path: Path) -> None:
    make, expected = FAMILIES[family]
    codec = codec_of(make(), tmp_path)
    [span] = codec.conversation(talk("Hi", "Hello there", "More", "Fine."))
    assert marked(codec, span) == expected
    assert codec.losses.breaks == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_untrained_prefix_is_the_prompt_that_generation_sees(family: str, tmp_path: Path) -> None:
    codec = codec_of(FAMILIES[family][0](), tmp_path)
    record = talk("Hi", "Hello there", "More", "Fine.")
    prompt = codec.prompt(PromptRecord(id="p", messages=record.messages[:3]))
    [span] = codec.conversation(record, loss_on="completion")
    first = span.trained.index(True)
    assert span.tokens[:first] == prompt.tokens
    assert all(span.trained[first:])
    assert span.tokens[first:] == codec.answer(prompt.record, "Fine.")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["Hello there", "  two spaces", "a line\n\nand 我们 🙂", "Hello.\n", "4"])
def test_decoding_an_answer_gives_its_text_back(family: str, text: str, tmp_path: Path) -> None:
    codec = codec_of(FAMILIES[family][0](), tmp_path)
    record = PromptRecord(id="p", messages=(Message(role="user", content="Say it"),))
    trims = "trim" in codec.template.jinja
    decoded = codec.decode(codec.answer(record, text), codec.prompt(record))
    assert decoded == (text.strip() if trims else text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_renders_as_in_training(family: str, tmp_path: Path) -> None:
    codec = codec_of(FAMILIES[family][0](), tmp_path / "model")
    codec.save(tmp_path / "run")
    assert (tmp_path / "run" / "chat_template.jinja").is_file()
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    again = AutoTokenizer.from_pretrained(tmp_path / "run")
    ids = again.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    record = talk("Hi", "Hello there")
    assert tuple(ids) == codec.prompt(PromptRecord(id="p", messages=record.messages[:1])).tokens
    whole = again.apply_chat_template(messages, return_dict=False)
    [span] = codec.conversation(record)
    assert tuple(whole[: len(span.tokens)]) == span.tokens


def test_the_end_of_turn_is_the_templates_and_the_sampler_stops_on_the_models_own_ends_too(tmp_path: Path) -> None:
    llama3().save_pretrained(tmp_path)
    codec = Codec.load(tmp_path, eos_ids=[1])
    end = codec.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert (codec.bos, codec.eos, codec.end_of_turn) == (0, 1, end)
    assert codec.stop_ids == {1, end}
    assert codec.template_source == "tokenizer"


def test_the_models_own_ends_are_read_from_its_generation_settings(tmp_path: Path) -> None:
    llama3().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    codec = Codec.load(tmp_path)
    assert codec.stop_ids == {7, 9, codec.eos, codec.end_of_turn}


def test_a_trailing_space_of_the_template_is_trained_but_not_part_of_the_answer(tmp_path: Path) -> None:
    codec = codec_of(mistral(LLAMA2), tmp_path)
    record = PromptRecord(id="p", messages=talk("Hi", "").messages[:1])
    tokens = codec.answer(record, "Hello there")
    assert marked(codec, codec.conversation(talk("Hi", "Hello there"))[0]) == "<s>[INST] Hi [/INST]⟦ Hello there </s>⟧"
    assert codec.decode(tokens, codec.prompt(record)) == "Hello there"


def test_a_template_that_rewrites_history_gives_one_span_for_each_turn(tmp_path: Path) -> None:
    codec = codec_of(chatml(QWEN3), tmp_path)
    first, second = codec.conversation(talk("Hi", "<think>hm</think>\n\nHello", "More", "<think>so</think>Fine."))
    assert marked(codec, first) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦<think>hm</think>\n\nHello<|im_end|>⟧"
    )
    assert marked(codec, second) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>so</think>Fine.<|im_end|>⟧"
    )
    assert codec.losses.expanded == 1


def test_a_template_without_an_end_of_turn_gets_the_end_of_text(tmp_path: Path) -> None:
    codec = codec_of(byte_level(eos="<|endoftext|>", template=UNENDED), tmp_path)
    spans = codec.conversation(talk("Hi", "Hello there", "More", "Fine."))
    assert [marked(codec, span) for span in spans] == [
        "user: Hi\nassistant:⟦ Hello there<|endoftext|>⟧",
        "user: Hi\nassistant: Hello there\nuser: More\nassistant:⟦ Fine.<|endoftext|>⟧",
    ]


def test_loss_on_chooses_the_turns_and_a_message_overrides_it(tmp_path: Path) -> None:
    codec = codec_of(gpt2(), tmp_path)
    record = talk("Hi", "One", "More", "Two")
    end = "<|endoftext|>"
    [completion] = codec.conversation(record, loss_on="completion")
    [everything] = codec.conversation(record, loss_on="all")
    assert marked(codec, completion) == f"User: Hi\nAssistant: One{end}User: More\nAssistant:⟦ Two{end}⟧"
    assert everything.trained == (False,) + (True,) * (len(everything.tokens) - 1)
    assert everything.tokens == completion.tokens

    user, one, more, two = record.messages
    first_only = Message(role="assistant", content="Two", train=False)
    [overridden] = codec.conversation(ChatRecord(id="r", messages=(user, one, more, first_only)))
    assert marked(codec, overridden) == f"User: Hi\nAssistant:⟦ One{end}⟧"
    also_one = Message(role="assistant", content="One", train=True)
    [both] = codec.conversation(ChatRecord(id="r", messages=(user, also_one, more, two)), loss_on="completion")
    assert marked(codec, both) == f"User: Hi\nAssistant:⟦ One{end}⟧User: More\nAssistant:⟦ Two{end}⟧"
    asked = Message(role="user", content="More", train=True)
    [users] = codec.conversation(ChatRecord(id="r", messages=(user, one, asked, two)), loss_on="completion")
    assert marked(codec, users) == f"User: Hi\nAssistant: One{end}User: ⟦More\n⟧Assistant:⟦ Two{end}⟧"
    [without] = codec.conversation(ChatRecord(id="r", messages=(user, one, more, first_only)), loss_on="all")
    assert marked(codec, without).endswith(f"One{end}User: More\nAssistant: ⟧Two{end}")


def test_a_conversation_that_trains_nothing_comes_back_whole(tmp_path: Path) -> None:
    codec = codec_of(gpt2(), tmp_path)
    silent = Message(role="assistant", content="One", train=False)
    [span] = codec.conversation(ChatRecord(id="r", messages=(talk("Hi").messages[0], silent)))
    assert not any(span.trained)
    assert marked(codec, span) == "User: Hi\nAssistant: One<|endoftext|>"


def test_running_text_stands_between_bos_and_end_of_text(tmp_path: Path) -> None:
    codec = codec_of(llama3(), tmp_path)
    span = codec.text(TextRecord(id="t", text="Once upon a time"))
    assert span.tokens == (codec.bos, *codec.words.encode("Once upon a time"), codec.eos)
    assert span.trained == (False,) + (True,) * (len(span.tokens) - 1)


def test_text_without_a_bos_leaves_its_first_token_to_nobody(tmp_path: Path) -> None:
    codec = codec_of(gpt2(), tmp_path)
    span = codec.text(TextRecord(id="t", text="Once upon a time"))
    assert codec.bos is None
    assert span.tokens == (*codec.words.encode("Once upon a time"), codec.eos)
    assert not span.trained[0]
    assert all(span.trained[1:])


def test_a_ranked_prompt_is_an_untrained_root_with_a_branch_for_each_answer(tmp_path: Path) -> None:
    codec = codec_of(chatml(), tmp_path)
    question = (Message(role="user", content="Hi"),)
    record = RankedRecord(id="r", prompt=question, responses=("Hello there", "Fine.", "no"), ranks=(1, 2, 2))
    group = codec.ranked(record)
    prompt = PromptRecord(id="r", messages=question)
    assert group.root.tokens == codec.prompt(prompt).tokens
    assert not any(group.root.trained)
    assert [branch.tokens for branch in group.branches] == [codec.answer(prompt, text) for text in record.responses]
    assert all(all(branch.trained) for branch in group.branches)
    assert [codec.decode(branch.tokens) for branch in group.branches] == list(record.responses)


def test_a_raw_prompt_is_continued_without_a_space_of_the_tokenizers_own(tmp_path: Path) -> None:
    codec = codec_of(sentencepiece(), tmp_path)
    record = PromptRecord(id="p", text="Once upon")
    prompt = codec.prompt(record)
    for text in (" a time", "a time", "\nLily", "  two"):
        tokens = codec.answer(record, text)
        assert tokens[-1] == codec.eos
        assert codec.decode(tokens, prompt) == text
        whole = codec.words.decode_after([*prompt.tokens[1:], *tokens[:-1]])
        assert whole.removeprefix(" ") == "Once upon" + text
    assert codec.losses.breaks == 0


def test_batches_are_encoded_as_their_members(tmp_path: Path) -> None:
    codec = codec_of(llama3(), tmp_path)
    rows = [talk("Hi", f"Hello {n}", "More", "x" * n) for n in range(1, 6)]
    assert codec.conversations(rows) == [codec.conversation(row) for row in rows]
    texts = [TextRecord(id=str(n), text="Once " * n) for n in range(1, 4)]
    assert codec.texts(texts) == [codec.text(text) for text in texts]
    assert codec.conversations([]) == codec.texts([]) == codec.prompts([]) == codec.rankings([]) == []


def test_the_end_of_turn_inside_an_answer_ends_it_and_is_counted(tmp_path: Path) -> None:
    codec = codec_of(chatml(), tmp_path)
    [span] = codec.conversation(talk("Hi", "Hello<|im_end|> there"))
    assert marked(codec, span).endswith("⟦Hello<|im_end|>⟧")
    assert codec.losses.breaks == 1
    assert codec.words.controls_in("Hello<|im_end|> there") == ("<|im_end|>",)
    assert codec.words.controls_in("Hello there") == ()


def test_text_that_the_vocabulary_cannot_spell_is_counted(tmp_path: Path) -> None:
    tokenizer = sentencepiece(template=LLAMA2)
    tokenizer.backend_tokenizer.model.byte_fallback = False
    codec = codec_of(tokenizer, tmp_path)
    codec.conversation(talk("Hi", "我们"))
    assert codec.losses.breaks == 1


def test_a_template_that_refuses_a_row_names_the_row(tmp_path: Path) -> None:
    codec = codec_of(gemma(), tmp_path)
    system = (Message(role="system", content="Be kind."), *talk("Hi", "Hello").messages)
    with pytest.raises(DataError, match=r"train.jsonl:3  .*System role not supported"):
        codec.conversation(ChatRecord(id="train.jsonl:3", messages=system))


def test_the_notes_template_has_the_lectures_form(tmp_path: Path) -> None:
    codec = codec_of(gpt2(), tmp_path, template="notes")
    [span] = codec.conversation(talk("你好", "好"))
    assert marked(codec, span) == "### 人类:你好\n### 助手:⟦好<|endoftext|>⟧"
    assert codec.template_source == "built-in notes"


def test_stories_get_short_markers_and_words_in_their_usual_form(stories_model: Path) -> None:
    codec = Codec.load(stories_model)
    [span] = codec.conversation(talk("Write", "Once upon a time"))
    pieces = codec.tokenizer.convert_ids_to_tokens(list(span.tokens))
    assert " ".join(pieces) == "<s> ▁ Q : ▁ W r it e <0x0A> A : ▁Once ▁upon ▁a ▁time </s>"
    assert codec.template_source == "built-in plain"
    assert codec.stop_ids == {1, 2}
    assert sum(span.trained) == 5


@pytest.mark.parametrize("text", ["Once upon a time", "a\nb", " two  spaces", "Zoë 🙂"])
def test_stories_round_trip_in_the_middle_of_a_text(stories_model: Path, text: str) -> None:
    codec = Codec.load(stories_model)
    record = PromptRecord(id="p", text="She said:")
    assert codec.decode(codec.answer(record, text), codec.prompt(record)) == text


def test_an_unknown_template_says_what_there_is(stories_model: Path) -> None:
    with pytest.raises(ModelError, match="'chatml' is neither 'plain' nor 'notes', nor a file"):
        Codec.load(stories_model, template="chatml")


def test_a_users_trained_turn_survives_the_expansion_into_turns(tmp_path: Path) -> None:
    codec = codec_of(chatml(QWEN3), tmp_path)
    user, one, more, two = talk("Hi", "<think>hm</think>Hello", "More", "Fine.").messages
    asked = Message(role="user", content=more.content, train=True)
    *answers, users = codec.conversation(ChatRecord(id="r", messages=(user, one, asked, two)))
    assert len(answers) == 2
    assert marked(codec, users) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\n⟦More<|im_end|>\n⟧"
    )


def test_an_untrained_answer_stays_so_where_history_is_rewritten(tmp_path: Path) -> None:
    codec = codec_of(chatml(QWEN3), tmp_path)
    user, one, more, two = talk("Hi", "<think>hm</think>Hello", "More", "Fine.").messages
    quiet = Message(role="assistant", content=one.content, train=False)
    [span] = codec.conversation(ChatRecord(id="r", messages=(user, quiet, more, two)), loss_on="all")
    assert marked(codec, span).endswith(
        "<|im_start|>assistant\n⟧Hello<|im_end|>\n<|im_start|>user\n"
        "⟦More<|im_end|>\n<|im_start|>assistant\nFine.<|im_end|>\n⟧"
    )
