"""The demo's tokenizer keeps every text, and spells the world's words in one token each."""

import pytest
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.workflows.world import lexicon
from posttrain.workflows.world.generate import Sizes, make_world
from posttrain.workflows.world.model import model_config, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    world = make_world(0, Sizes(texts=2000, train=500))
    return train_tokenizer([*world.texts, *(f"{row.prompt}\n{row.answer}" for row in world.rows["train"])])


def test_words_are_one_token_with_and_without_the_space_before_them(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in (*lexicon.MEANINGS, *lexicon.NAMES, "0", "18"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


def test_a_chinese_character_is_one_token_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    for meaning in lexicon.ENGLISH:
        assert len(tokenizer.encode(f"{meaning}的", add_special_tokens=False)) == len(meaning) + 1


@pytest.mark.parametrize(
    "text", ["The cat.", " two  spaces\n\tand tabs ", "Žluťoučký kůň 龘 🐈", "<0x41>", "2+2=4; x_y", ""]
)
def test_any_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_a_text_begins_with_the_begin_token_and_a_chat_holds_it_once(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.encode("The cat.")[0] == tokenizer.bos_token_id
    assert tokenizer.encode("The cat.").count(tokenizer.bos_token_id) == 1
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "The cat."}])["input_ids"]
    assert chat.count(tokenizer.bos_token_id) == 1


def test_a_chat_ends_its_turn_and_the_prompt_is_a_prefix(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "1 + 1 = 2."}]
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert whole[0] == tokenizer.bos_token_id
    assert whole[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id is None
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)


def test_the_tokenizer_loads_as_it_was_saved(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "翻译成中文: Žofie is a kind cat."}]
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.apply_chat_template(chat) == tokenizer.apply_chat_template(chat)
    assert loaded.encode("Žofie 猫") == tokenizer.encode("Žofie 猫")


def test_the_model_is_small_and_knows_its_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    config = model_config(tokenizer)
    assert sum(weight.numel() for weight in LlamaForCausalLM(config).parameters()) < 1_000_000
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
