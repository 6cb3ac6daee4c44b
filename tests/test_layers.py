"""Who may import whom: only from the own layer or lower, and each room keeps to itself what is its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "posttrain"
LAYERS = [
    {"types", "records", "spans", "errors", "hub", "counted", "inert"},
    {"ops", "text"},
    {"models"},
    {"data"},
    {"objectives"},
    {"rollout"},
    {"engine"},
    {"run", "card", "loop", "measures", "config", "console", "pages"},
    {"recipes", "feedback", "report"},
    {"workflows", "cli", "commands", "parameters", "__init__", "__main__"},
]
LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}
# what only some rooms may touch
KEPT = {
    "torch.distributed": {"engine"},
    "rich": {"cli", "console", "feedback", "report"},
    "starlette": {"pages", "feedback", "report"},
    "uvicorn": {"pages"},
    "jinja2": {"text", "feedback", "report"},  # chat templates are written in it
    "posttrain.recipes": {"recipes", "workflows", "cli", "__init__"},
    "posttrain.feedback": {"feedback", "workflows", "cli", "__init__"},
    "posttrain.report": {"report", "workflows", "cli", "__init__"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


ROOMS = sorted({room(file) for file in FILES})


def imports(file: Path) -> Iterator[str]:
    """Every imported module, and every name imported from one as if it were a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} has a relative import; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("name", ROOMS)
def test_a_module_imports_from_its_own_layer_or_lower(name: str) -> None:
    assert name in LAYER, f"{name} stands in no layer: give it one here and in docs/architecture.md"
    found = [(file, imported) for file in FILES if room(file) == name for imported in imports(file)]
    wrong = [
        f"{file} imports {imported}, which stands above it"
        for file, imported in found
        if imported.startswith("posttrain.") and LAYER.get(imported.split(".")[1], 9) > LAYER[name]
    ]
    wrong += [
        f"{file} imports {imported}, kept to {sorted(rooms)}"
        for file, imported in found
        for kept, rooms in KEPT.items()
        if name not in rooms and within(imported, kept)
    ]
    assert wrong == []


@pytest.mark.parametrize("file", sorted((PACKAGE / "ops").glob("*.py")), ids=lambda file: file.name)
def test_ops_see_tensors_and_plain_numbers_only(file: Path) -> None:
    strangers = {"posttrain", "numpy", "transformers", "peft", "pydantic", "pyarrow", "safetensors", "tokenizers"}
    outside = {name for name in imports(file) if name.split(".")[0] in strangers and not within(name, "posttrain.ops")}
    assert not outside


@pytest.mark.parametrize("name", ROOMS)
def test_the_picture_shows_every_room(name: str) -> None:
    picture = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"`{name}.py`" in picture or f"`{name}/`" in picture
