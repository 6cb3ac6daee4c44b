"""The JSON schema of a command's settings file, for editors that check and complete while one types."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from posttrain.config.shared import Settings

Schema: TypeAlias = "dict[str, Any]"


def json_schema(config: type[Settings]) -> Schema:
    """The schema (draft 2020-12) of a file that `config` reads: descriptions, defaults, bounds, no unknown keys.

    What settings say of one another (`steps` or `epochs`) is not in it; only a run checks that.
    """
    made = config.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"posttrain {config.command}",
        **_without_titles(made),
    }


def _without_titles(node: Schema) -> Schema:
    """The schema without the titles that pydantic makes of the names of settings, which say nothing more."""
    return {key: _cleaned(value) for key, value in node.items() if key != "title"}


def _cleaned(value: object) -> object:
    if isinstance(value, dict):
        return _without_titles(cast("Schema", value))
    if isinstance(value, list):
        return [_cleaned(item) for item in cast("list[object]", value)]
    return value
