"""The parameters of a command, from which cyclopts makes its parser and its help: settings, options, switches."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter as Argument
from typing import TYPE_CHECKING, Annotated

from posttrain.commands import ABOUT, SWITCHES, Option

if TYPE_CHECKING:
    from posttrain.config import Leaf, Settings

_IN_OUT = ("model", "against", "reward", "prompts", "data", "eval_data", "out", "db")


def dashed(name: str) -> str:
    """An option as it is typed: `--dry-run`."""
    return f"--{name.replace('_', '-')}"


def switches(name: str) -> list[str]:
    """The names of a command's switches."""
    return [option for option, switch in SWITCHES.items() if name in switch.commands]


def setting_flags(config: type[Settings], known: Mapping[str, Leaf]) -> list[Argument]:
    """What stands without a flag, then the settings."""
    from cyclopts import Parameter

    from posttrain.config.leaf import own_names

    own = set(own_names(config))
    file = "settings in YAML, which flags override"
    about = f"the {config.positional}, or {file}" if config.positional else file
    name = f"{config.positional}_or_settings" if config.positional else "settings"
    first = Annotated[str, Parameter(help=about)]
    return [
        Argument(name, Argument.VAR_POSITIONAL, annotation=first),
        *(_flag(key, leaf, own, config.command) for key, leaf in known.items()),
    ]


def _flag(key: str, leaf: Leaf, own: set[str], command: str) -> Argument:
    """The parameter of one setting, under the heading that it stands under in the help."""
    from cyclopts import Group, Parameter

    root = leaf.name.split(".")[0]
    if leaf.name in _IN_OUT:
        group = Group("In and out", sort_key=1)
    elif leaf.name != root and root in ABOUT:  # a stage of the loop
        group = Group(f"As in posttrain {root}", sort_key=3)
    else:
        group = Group(f"Settings of {command}", sort_key=2) if root in own else Group("Shared settings", sort_key=3)
    names = (f"--{leaf.name}", f"-{leaf.name}") if len(leaf.name) == 1 else (f"--{leaf.name}",)
    about = Parameter(name=names, help=leaf.help, group=group, metavar=leaf.metavar)
    kind = Annotated[list[str] | None, about] if leaf.takes_many else Annotated[str | None, about]
    return Argument(key, Argument.KEYWORD_ONLY, default=None, annotation=kind)


def switch_flags(name: str) -> list[Argument]:
    """The switches of a command."""
    return [
        option_flag(Option(name=switch, kind=bool, default=False, about=SWITCHES[switch].about))
        for switch in switches(name)
    ]


def option_flag(option: Option) -> Argument:
    """The parameter of an option; one without a default stands without its name."""
    from cyclopts import Group, Parameter

    if option.default is None:
        kind = Annotated[option.kind, Parameter(help=option.about)]
        return Argument(
            option.name, Argument.VAR_POSITIONAL if option.many else Argument.POSITIONAL_ONLY, annotation=kind
        )
    about = Parameter(name=dashed(option.name), help=option.about, group=Group("Options", sort_key=4))
    return Argument(
        option.name, Argument.KEYWORD_ONLY, default=option.default, annotation=Annotated[option.kind, about]
    )
