"""The settings of a command as a part of another's: all of them but those that the other fills in."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from inspect import get_annotations
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError, model_validator

from posttrain.config.shared import Clash, Settings, steps_alone

SettingsT = TypeVar("SettingsT", bound=Settings)


class Stage(Settings):
    """The settings of the command `whole` without those that are `filled` in.

    A subclass names both and gets the fields; what its body declares takes the place of a field of that name.
    """

    whole: ClassVar[type[Settings]]
    filled: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, *, of: type[Settings], filled: Sequence[str], **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.whole, cls.filled = of, tuple(filled)
        own = get_annotations(cls)
        taken = {name: info for name, info in of.model_fields.items() if name not in (*filled, *own)}
        cls.__annotations__ = {**{name: info.annotation for name, info in taken.items()}, **own}
        for name, info in taken.items():
            setattr(cls, name, copy(info))

    def complete(self, whole: type[SettingsT], **filled: object) -> SettingsT:
        """The settings of the command, `whole`, with what was filled in."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return whole.model_validate({**given, **filled})

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default_epochs(cls, values: Any) -> Any:
        return steps_alone(values) if "epochs" in cls.model_fields else values

    @model_validator(mode="after")
    def _parts_agree_as_they_do_in_the_command(self) -> Stage:
        required = [name for name in self.filled if self.whole.model_fields[name].is_required()]
        try:
            self.complete(self.whole, **{name: name for name in required})
        except ValidationError as error:
            told = error.errors()[0]
            clash = told.get("ctx", {}).get("error")
            raise clash if isinstance(clash, Clash) else ValueError(told["msg"]) from None
        return self
