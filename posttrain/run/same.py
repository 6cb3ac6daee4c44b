"""Whether a command is the one that an earlier run in the folder was started with, and what differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from posttrain.config import Settings
from posttrain.errors import ConfigError
from posttrain.run.folder import Facts, Run

# These say what is written down and when, not what is learnt: a run may go on with others.
_BESIDE_RESULTS = frozenset(
    {"samples", "eval_every", "save_every", "keep", "track", "rollouts_every", "stop_if"}
    | {"functions.timeout", "functions.at_once", "functions.max_failures"}
)
# These change rounding alone.
_ROUNDING = frozenset({"micro_batch_tokens", "packing", "deterministic", "compile"})


def differences(earlier: Run, record: Facts, config: Settings) -> list[str]:
    """One line for each setting, file or parent that would make it another run; none when it is the same."""
    there = earlier.record
    if there["command"] != record["command"]:
        return [f"command: {there['command']} -> {record['command']}"]
    try:
        changed = _changed(earlier, config)
    except ConfigError as error:
        return [f"{earlier.path / 'run' / 'config.yaml'}: {problem.what}" for problem in error.problems]
    harmless = _BESIDE_RESULTS | _ROUNDING
    lines = [_line(name, *values) for name, values in changed.items() if not _within(name, harmless)]
    return lines + list(_other_content(there, record, changed))


def remarks(earlier: Run, config: Settings) -> list[str]:
    """One line for each changed setting with which the run may go on all the same."""
    changed = _changed(earlier, config)
    beside = {name: values for name, values in changed.items() if _within(name, _BESIDE_RESULTS)}
    found = [f"{_line(name, *values)}, from here on" for name, values in beside.items()]
    rounding = [_line(name, *values) for name, values in changed.items() if name in _ROUNDING]
    return found + [f"{line}, from here on: the same method, but not bit for bit" for line in rounding]


def changed_lines(there: Settings, here: Settings, *, but: frozenset[str]) -> list[str]:
    """One line for each setting that differs, except `but` some."""
    changed = _differing(there, here)
    return [_line(name, *values) for name, values in changed.items() if not _within(name, but)]


def _changed(earlier: Run, config: Settings) -> dict[str, tuple[object, object]]:
    return _differing(earlier.config, config)


def _differing(there: Settings, here: Settings) -> dict[str, tuple[object, object]]:
    """The settings that differ, by name: (there, here). Where a run is written makes it no other run."""
    old, new = flat(there.model_dump(mode="json")), flat(here.model_dump(mode="json"))
    names = [name for name in dict.fromkeys([*old, *new]) if name != "out"]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _other_content(there: Facts, here: Facts, changed: Mapping[str, object]) -> Iterator[str]:
    """What changed beneath settings that are the same: data, code, models."""
    for kind in ("data", "files"):
        old, new = there.get(kind, {}), here.get(kind, {})
        yield from (f"{name}: its content changed" for name in old if name in new and old[name] != new[name])
    for name, parent in here["parents"].items():
        old = there["parents"].get(name)
        if old is None or name in changed:
            continue
        if any(old.get(fact) != parent.get(fact) for fact in ("command", "started", "parents")):
            yield f"{name}: {parent['name']} was trained again"
        elif "content" in old and old["content"] != parent.get("content"):
            yield f"{name}: the files of {parent['name']} changed"
        elif "base" in old and old["base"] != parent.get("base"):
            yield f"{name}: the files of the model that {parent['name']} stands on changed"


def _within(name: str, names: frozenset[str]) -> bool:
    """Whether a flat name, or the group that it is a part of (`stop_if` of `stop_if.kl`), is one of these."""
    return name in names or name.partition(".")[0] in names


def flat(settings: Mapping[str, Any], prefix: str = "") -> Facts:
    """The settings with the names that flags have: those of a group behind its name."""
    found: Facts = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _line(name: str, old: object, new: object) -> str:
    return f"{name}: {json.dumps(old, ensure_ascii=False)} -> {json.dumps(new, ensure_ascii=False)}"
