"""The settings of one task with its own measure: answers beside references, and labels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from posttrain.config.shared import BEST, Clash, Count, Passes, Settings, Text, Training, as_texts

Measure: TypeAlias = Literal["exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
Measures: TypeAlias = Annotated[
    tuple[Measure, ...],
    Field(strict=False),
    BeforeValidator(as_texts, json_schema_input_type=Measure | list[Measure]),
]


class Compared(Settings):
    """How answers are measured beside references."""

    measures: Measures = Field(default=(), description="measures of answers beside their references")
    answer_after: Text | None = Field(
        default=None, description="compare only what follows the last such text, such as '####'; null: all of it"
    )
    normalize: Literal["none", "squad", "number"] = Field(
        default="none",
        description="exact_match but for spaces around; squad: case, punctuation and articles; number: the last number",
    )
    bleu_tokenizer: Literal["auto", "13a", "intl", "zh", "char", "none"] = Field(
        default="auto", description="of sacrebleu, for bleu; auto: by the script of the references, printed"
    )

    @model_validator(mode="after")
    def _each_has_its_measure(self) -> Compared:
        if self.answer_after is not None and not self.measures:
            raise Clash("answer_after", "nothing is compared: set measures, for example [exact_match]")
        if self.normalize != "none" and "exact_match" not in self.measures:
            raise Clash("normalize", f"{self.normalize} is of exact_match, which measures do not name; add it")
        if self.bleu_tokenizer != "auto" and "bleu" not in self.measures:
            raise Clash("bleu_tokenizer", "is of bleu, which measures do not name; add it")
        return self


LONGEST, ROWS = 256, 200


class Measured(Compared):
    """Measures by generation while a run goes on, on what it holds out."""

    max_new_tokens: Count = Field(default=LONGEST, description="longest answer of the measures, in tokens")
    measure_rows: Count = Field(default=ROWS, description="held-out conversations that are answered, at most")

    @model_validator(mode="after")
    def _something_is_measured(self) -> Measured:
        eval_data: object = getattr(self, "eval_data", None)
        if self.measures and eval_data is None:
            raise Clash("measures", "nothing is held out to measure on: set eval_data, a share or a file")
        changed = {"max_new_tokens": self.max_new_tokens != LONGEST, "measure_rows": self.measure_rows != ROWS}
        if not self.measures and any(changed.values()):
            name = next(name for name, given in changed.items() if given)
            raise Clash(name, "nothing is answered: set measures, for example [exact_match]")
        return self


class ClassifyConfig(Training, Passes):
    """A head for classes or numbers on a model, from labelled rows."""

    command: ClassVar[str] = "classify"

    task: Literal["auto", "classification", "regression"] = Field(
        default="auto", description="what labels are; auto: classes where they are texts or few whole numbers, printed"
    )
    best: (
        Literal["auto", "eval_loss", "eval_accuracy", "eval_macro_f1", "eval_spearman", "eval_pearson"] | None
    ) = Field(default="auto", description=BEST)  # fmt: skip

    @model_validator(mode="after")
    def _the_best_is_a_measure_of_the_task(self) -> ClassifyConfig:
        if self.task != "auto" and (why := other_task(self.best, self.task)):
            raise Clash("best", why)
        return self


_OF_TASK = {
    "classification": ("eval_loss", "eval_accuracy", "eval_macro_f1"),
    "regression": ("eval_loss", "eval_spearman", "eval_pearson"),
}


def other_task(best: str | None, task: str) -> str:
    """What is wrong with a measure of the best weights where labels are of `task`; nothing for one that there is."""
    if best in (None, "auto", *_OF_TASK[task]):
        return ""
    return f"{best} is no measure of a {task}; there are {', '.join(_OF_TASK[task])}"
