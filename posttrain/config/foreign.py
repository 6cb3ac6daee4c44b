"""What to write here for an option of another library, and why some need nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from pydantic import ValidationError

from posttrain.config.by_command import CONFIGS
from posttrain.config.foreign_absent import FAMILIES, LATER, MISSING, UNNEEDED
from posttrain.config.foreign_names import OWNERS, RENAMED, Foreign
from posttrain.config.foreign_values import ROWS, NoValueError, batch_rows, shown, translated
from posttrain.config.leaf import group_of, ordered
from posttrain.config.shared import Settings


def foreign(config: type[Settings], name: str, given: Mapping[str, object], *, form: str) -> str:
    """`; that is TRL's name, here: epochs: 3`, or why there is none; the empty string for a name of nobody.

    `given` holds all that was given, by name: options are read together where only together they mean something
    (rows of a device and steps of accumulation), and the library that most of the names are from is the one named.
    `form` is `--{}` when flags were typed.
    """
    if name in LATER:
        return f"; not in this version: {LATER[name]}"
    owners, told = _told(config, name, given, form)
    return f"; that is {_owner(owners, given)}'s name, {told}" if told else ""


def _told(config: type[Settings], name: str, given: Mapping[str, object], form: str) -> tuple[str, str]:
    """The owners of a name and what is said of it."""
    last = name.rsplit(".", 1)[-1]
    renamed = RENAMED.get(name) or RENAMED.get(last)
    if renamed is not None:
        return renamed.owners, _here(config, name, renamed, given, form)
    unneeded = UNNEEDED.get(name) or UNNEEDED.get(last)
    if unneeded is not None:
        return unneeded.owners, f"not needed here: {_other_command(config, given.get(name)) or unneeded.note}"
    missing = MISSING.get(name) or MISSING.get(last)
    if missing is not None:
        off = given.get(name, "") in (None, False)
        return missing.owners, _OFF if off else f"not in this version: {missing.note}"
    for start, (owners, why) in FAMILIES.items():
        if name.startswith(start):
            return owners, f"not needed here: {why}"
    return "", ""


_OFF = "and off: leave the line out"
_COMMANDS = {
    **dict.fromkeys(("sft", "pt", "pretrain"), "sft"),
    **dict.fromkeys(("rm", "reward", "reward_trainer"), "reward"),
    **dict.fromkeys(("ppo", "grpo", "rloo", "gdpo"), "ppo"),
    **dict.fromkeys(("dpo", "ipo", "simpo", "orpo", "kto"), "dpo"),
}


def _other_command(config: type[Settings], value: object) -> str:
    """What is said when the method that a value names is another command's."""
    command = _COMMANDS.get(value) if isinstance(value, str) else None
    return f"{value} is the command posttrain {command}" if command not in (None, config.command) else ""


def _owner(owners: str, given: Mapping[str, object]) -> str:
    """The library of a name; of several the one that most of what was given is from."""
    tables = (RENAMED, UNNEEDED, MISSING)
    counts = Counter(letter for name in given for table in tables if name in table for letter in table[name].owners)
    most = max(owners, key=lambda letter: (counts[letter], -owners.index(letter)))
    return OWNERS[most]


def _here(config: type[Settings], name: str, entry: Foreign, given: Mapping[str, object], form: str) -> str:
    """`here: max_length: 512 (note)`, with the value only where it is a right one."""
    if name in ROWS:
        return _batch(given, form) if "batch_size" in config.model_fields else _ANSWERS
    entry = entry._replace(here=_setting(config, entry.here))
    key = entry.here.split(".")[0]
    if key not in config.model_fields:
        owners = [command for command, other in CONFIGS.items() if key in other.model_fields]
        return f"a setting of {', '.join(owners)}: {entry.here}" if owners else f"not in this version: {entry.note}"
    try:
        value = _checked(config, entry.here, translated(name, given))
    except NoValueError as error:
        if given.get(name, "") in (None, False):
            return _OFF
        note = str(error) or entry.note
        here = f"--{entry.here}" if form.startswith("--") else entry.here
        if note.startswith(f"{entry.here}:"):
            return f"here: {note}"
        return f"here: {here}" + (f" ({note})" if note else "")
    if form.startswith("--"):
        return f"here: --{entry.here} {shown(value)}"
    if value is not None and group_of(config.model_fields[key]) is not None:
        value = _merged(config, key, given)
    return f"here: {key}: {shown(value)}"


_ANSWERS = "here: micro_batch_tokens for memory, rollouts and minibatches for answers per optimizer step"


def _batch(given: Mapping[str, object], form: str) -> str:
    """Rows of a forward and steps of accumulation are two things here: memory, and rows of an optimizer step."""
    try:
        rows = f"--batch_size {batch_rows(given)}" if form.startswith("--") else f"batch_size: {batch_rows(given)}"
    except NoValueError:
        rows = "--batch_size" if form.startswith("--") else "batch_size"
    return f"here: micro_batch_tokens for memory, and {rows} for rows per optimizer step, over all devices together"


def translation(config: type[Settings], given: Mapping[str, object]) -> dict[str, object]:
    """All that was given as settings of `config`: what is right as it stands, and other libraries' names in ours."""
    found: dict[str, object] = {}
    for name in given:
        entry = RENAMED.get(name)
        if entry is None and name not in config.model_fields:
            continue
        here = _setting(config, entry.here if entry else name)
        key = here.split(".")[0]
        if key not in config.model_fields or key in found:
            continue
        with suppress(NoValueError):
            value = batch_rows(given) if name in ROWS else translated(name, given) if entry else given[name]
            grouped = entry is not None and value is not None and group_of(config.model_fields[key]) is not None
            value = _checked(config, here, value)
            found[key] = _merged(config, key, given) if grouped else value
    return {name: found[name] for name in ordered(config) if name in found}


def _setting(config: type[Settings], here: str) -> str:
    """The setting of this command: what is trained on is `data`, or `prompts` where answers are sampled."""
    return "prompts" if here == "data" and "prompts" in config.model_fields else here


def _merged(config: type[Settings], group: str, given: Mapping[str, object]) -> object:
    """The whole group that all given options together make: `{rank: 8, alpha: 16}`."""
    parts: dict[str, object] = {}
    for name in given:
        here = RENAMED[name].here if name in RENAMED else ""
        if here.startswith(f"{group}."):
            with suppress(NoValueError):
                parts[here.removeprefix(f"{group}.")] = _checked(config, here, translated(name, given))
    return parts or {"rank": 32}


def _checked(config: type[Settings], name: str, value: object) -> object:
    """The value when the setting takes it. Raises NoValueError otherwise."""
    tree = value
    for part in reversed(name.split(".")):
        tree = {part: tree}
    try:
        config.model_validate(tree)
    except ValidationError as error:  # what else is missing says nothing of this setting
        if any(problem["loc"][:1] == (name.split(".")[0],) for problem in error.errors()):
            raise NoValueError from error
    return value
