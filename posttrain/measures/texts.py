"""What answers are worth beside their references: exact match, token F1, ROUGE of each; BLEU and chrF of all together.

Everything here takes plain texts. An answer with several references is worth the best of them.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from importlib import import_module
from typing import Any, Literal, TypeAlias

import torch

from posttrain.measures.shares import Estimate, share
from posttrain.ops.statistics import bootstrap_mean

Measure: TypeAlias = Literal["exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
Normalize: TypeAlias = Literal["none", "squad", "number"]
BleuTokenizer: TypeAlias = Literal["13a", "intl", "zh", "char", "none"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# A minus sign stands before the number and after no word: in `7-3` and `page-3` it is a hyphen.
_NUMBER = re.compile(r"(?:(?<![\w.])[-+])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_RESAMPLES = 1000
_OF_ALL = ("bleu", "chrf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How texts are compared. `after`: only what follows its last occurrence counts, None for all of a text.

    `normalize` is of exact match; token F1 is always that of SQuAD. `tokenizer` is sacrebleu's, for BLEU alone.
    """

    after: str | None = None
    normalize: Normalize = "none"
    tokenizer: BleuTokenizer = "13a"


def measured(
    measures: Sequence[Measure], answers: Sequence[str], references: Sequence[Sequence[str]], rules: Rules
) -> dict[str, Estimate]:
    """Each measure of the answers [N] beside the references of each, with its 95 % interval.

    Shares and means lie in [0, 1]: exact match has a Wilson interval, token F1 and ROUGE (its F-measure) that of the
    bootstrap over answers. BLEU and chrF are of the whole corpus, in [0, 100] as sacrebleu has them, with its own
    bootstrap. Raises ValueError for no answers.
    """
    if not answers:
        raise ValueError("no answers to measure")
    said, wanted = _compared(answers, references, rules)
    found: dict[str, Estimate] = {}
    for measure in measures:
        if measure in _OF_ALL:
            found[measure] = _corpus(measure, said, wanted, rules)
        else:
            found[measure] = _mean(measure, said, wanted, rules)
    return found


def worth_of_each(
    measures: Sequence[Measure], answers: Sequence[str], references: Sequence[Sequence[str]], rules: Rules
) -> dict[str, list[float]]:
    """What each answer is worth by the measures of single answers, in [0, 1]; BLEU and chrF have none."""
    said, wanted = _compared(answers, references, rules)
    return {name: _best(name, said, wanted, rules) for name in measures if name not in _OF_ALL}


def _compared(
    answers: Sequence[str], references: Sequence[Sequence[str]], rules: Rules
) -> tuple[list[str], list[list[str]]]:
    """What of the texts counts."""
    said = [extracted(answer, rules.after) or "" for answer in answers]
    return said, [[extracted(text, rules.after) or "" for text in texts] for texts in references]


def extracted(text: str, after: str | None) -> str | None:
    """What of a text is compared: all of it, or what follows the last `after` (None where it has none), stripped."""
    if after is None:
        return text.strip()
    _, marker, tail = text.rpartition(after)
    return tail.strip() if marker else None


def exact_match(answer: str, reference: str, normalize: Normalize = "none") -> bool:
    """Whether two texts are the same once normalised.

    `none`: but for spaces around. `squad`: but for case, punctuation, the articles a, an, the, and spaces (Rajpurkar
    2016). `number`: the last number in each is the same number, so that `$1,234.` equals `1234.0`; without a number in
    the reference the texts are compared.
    """
    if normalize == "number" and (wanted := last_number(reference)) is not None:
        return last_number(answer) == wanted
    if normalize == "squad":
        return squad_tokens(answer) == squad_tokens(reference)
    return answer.strip() == reference.strip()


def last_number(text: str) -> Decimal | None:
    """The last number that a text spells, commas between digits left out; None when it spells none."""
    spelt = _NUMBER.findall(text.replace("\u2212", "-"))
    return Decimal(spelt[-1].replace(",", "")) if spelt else None


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall over the tokens of SQuAD, in [0, 1]; of two empty texts 1.

    Source: Rajpurkar 2016 (SQuAD), its evaluation script of version 2.
    """
    said, wanted = squad_tokens(answer), squad_tokens(reference)
    if not said or not wanted:
        return float(said == wanted)
    same = sum((Counter(said) & Counter(wanted)).values())
    return 2 * same / (len(said) + len(wanted))


def squad_tokens(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and articles; a Chinese or Japanese character is a word.

    On ASCII these are the tokens of SQuAD's script; beyond it punctuation is what Unicode calls so, as in MLQA.
    """
    plain = "".join(character for character in text.lower() if not _is_punctuation(character))
    return _spaced(_ARTICLES.sub(" ", plain)).split()


def words(text: str) -> list[str]:
    """The words of ROUGE: runs of letters, marks and digits in lower case; a Chinese or Japanese character is a word.

    On ASCII these are the tokens of the library rouge-score without stemming, whose own leave out all other letters.
    """
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    return _spaced("".join(kept)).split()


def tokenizer_for(references: Sequence[str]) -> tuple[BleuTokenizer, str]:
    """The sacrebleu tokenizer for texts in the language of `references`, and the reason in one line."""
    scripts = {_script(character) for text in references for character in text}
    if "kana" in scripts:
        return "char", "bleu_tokenizer char: the references hold kana, which no spaces separate"
    if "han" in scripts:
        return "zh", "bleu_tokenizer zh: the references hold Chinese characters; other words are taken as in 13a"
    return "13a", "bleu_tokenizer 13a: sacrebleu's own choice, for languages with spaces"


# --- inside -----------------------------------------------------------------------------------------------------


def _mean(measure: Measure, answers: Sequence[str], references: Sequence[Sequence[str]], rules: Rules) -> Estimate:
    """The mean over answers of the best worth beside any reference."""
    best = _best(measure, answers, references, rules)
    if measure == "exact_match":
        return share(sum(best), len(best))
    values = torch.tensor(best, dtype=torch.float64)
    return Estimate(value=float(values.mean()), interval=bootstrap_mean(values), count=len(best))


def _best(measure: Measure, answers: Sequence[str], references: Sequence[Sequence[str]], rules: Rules) -> list[float]:
    """What each answer is worth beside the best of its references."""
    worth = _worth(measure, rules)
    return [float(max(worth(said, text) for text in texts)) for said, texts in zip(answers, references, strict=True)]


def _worth(measure: Measure, rules: Rules) -> Callable[[str, str], float]:
    """What an answer is worth beside one reference."""
    if measure == "exact_match":
        return partial(exact_match, normalize=rules.normalize)
    if measure == "token_f1":
        return token_f1
    # Imported here: a run without these measures does not wait for nltk.
    scorer = import_module("rouge_score.rouge_scorer").RougeScorer([measure], tokenizer=_Words())
    return lambda answer, reference: float(scorer.score(reference, answer)[measure].fmeasure)


class _Words:
    """`words` as rouge-score asks for a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """The words of `text`."""
        return words(text)


def _corpus(measure: Measure, answers: Sequence[str], references: Sequence[Sequence[str]], rules: Rules) -> Estimate:
    """BLEU (with sacrebleu's exponential smoothing) or chrF (characters up to 6, beta 2) over all answers.

    The interval is that of sacrebleu's bootstrap with its own seed: its mean and half the width of 95 %.
    """
    library = import_module("sacrebleu.metrics")
    metric: Any = library.BLEU(tokenize=rules.tokenizer) if measure == "bleu" else library.CHRF()
    most = max(map(len, references))
    # One list for each place of a reference, as sacrebleu has them; where an answer has fewer, None.
    lists = [[texts[place] if place < len(texts) else None for texts in references] for place in range(most)]
    found = metric.corpus_score(list(answers), lists, n_bootstrap=_RESAMPLES)
    mean, half = float(found._mean), float(found._ci)
    return Estimate(
        value=float(found.score), interval=(max(0.0, mean - half), min(100.0, mean + half)), count=len(answers)
    )


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _spaced(text: str) -> str:
    """`text` with spaces around every Chinese and Japanese character."""
    return "".join(f" {character} " if _script(character) else character for character in text)


def _script(character: str) -> str:
    """`han` or `kana`, and nothing for all other characters."""
    if character < "\u3040":
        return ""
    if "\u3040" <= character <= "\u30ff" or "\u31f0" <= character <= "\u31ff" or "\uff66" <= character <= "\uff9f":
        return "kana"
    han = (
        "\u3400" <= character <= "\u9fff"
        or "\uf900" <= character <= "\ufaff"
        or "\U00020000" <= character <= "\U000323af"
    )
    return "han" if han else ""
