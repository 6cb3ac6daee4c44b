"""Tokens as pieces of text: characters are never cut, control tokens stand alone, and a piece has one mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from text_tokenizers import codec_of, llama3, sentencepiece, talk

from posttrain.text.pieces import alone, pieces
from posttrain.types import Span


def test_an_answer_is_shown_token_by_token_with_its_mask(tmp_path: Path) -> None:
    codec = codec_of(llama3(), tmp_path)
    [span] = codec.conversation(talk("Hi", "Hello 🙂"))
    shown = list(pieces(codec.words, span))
    assert [(piece.text, piece.trained) for piece in shown if piece.special] == [
        ("<|begin_of_text|>", False),
        ("<|start_header_id|>", False),
        ("<|end_header_id|>", False),
        ("<|eot_id|>", False),
        ("<|start_header_id|>", False),
        ("<|end_header_id|>", False),
        ("<|eot_id|>", True),
    ]
    assert "".join(piece.text for piece in shown if piece.trained) == "Hello 🙂<|eot_id|>"
    [smile] = [piece for piece in shown if "🙂" in piece.text]
    assert len(smile.tokens) > 1  # it is spelt in bytes


def test_bytes_that_make_no_character_are_shown_all_the_same(tmp_path: Path) -> None:
    codec = codec_of(sentencepiece(), tmp_path)
    broken = codec.words.encode("🙂")[-4:-1] * 5
    shown = list(pieces(codec.words, Span.all(broken, trained=True)))
    assert [token for piece in shown for token in piece.tokens] == broken
    assert all("\N{REPLACEMENT CHARACTER}" in piece.text for piece in shown)


def test_a_change_of_the_mask_ends_a_piece_even_inside_a_character(tmp_path: Path) -> None:
    codec = codec_of(sentencepiece(), tmp_path)
    whole = Span.all(codec.words.encode("🙂")[-4:], trained=True)
    cut = replace(whole, trained=(False, False, True, True))
    assert [(len(piece.tokens), piece.trained) for piece in pieces(codec.words, whole)] == [(4, True)]
    assert [(len(piece.tokens), piece.trained) for piece in pieces(codec.words, cut)] == [(2, False), (2, True)]


def test_a_token_alone_keeps_its_space_and_its_line_break_and_is_spelt_where_it_is_a_control(tmp_path: Path) -> None:
    for name, made in (("bytes", llama3()), ("pieces", sentencepiece())):
        words = codec_of(made, tmp_path / name).words
        ids = words.encode_after("a there\n")
        assert "".join(alone(words, token) for token in ids) == "a there\n"
        assert alone(words, words.eos) == words.tokenizer.eos_token


def test_bytes_that_are_no_character_are_written_as_numbers(tmp_path: Path) -> None:
    for name, made in (("bytes", llama3()), ("pieces", sentencepiece())):
        words = codec_of(made, tmp_path / name).words
        shown = "".join(alone(words, token) for token in words.encode_after("🙂"))
        assert shown == "<0xF0><0x9F><0x99><0x82>"


def test_an_id_beyond_the_tokenizer_is_its_number(tmp_path: Path) -> None:
    words = codec_of(llama3(), tmp_path).words
    assert alone(words, words.size + 5) == f"<{words.size + 5}>"
