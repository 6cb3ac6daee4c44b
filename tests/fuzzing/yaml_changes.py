"""Ways in which a file of settings can be wrong: values, tags, anchors, depth, and documents beside each other."""

from __future__ import annotations

import random
from typing import Any

from .plain_changes import LINES, Mutator, inserted, node_changed, parsed, spelled

VALUES = (
    "!!python/object/apply:os.system ['id']", "!!python/name:os.system", "!!binary aGk=", "!!binary ?",
    "!!timestamp x", "!!float x", "!!int x", "!!int 0x", "!!bool x", "!!null x", "!!set {a, b}", "!!omap [a: 1]",
    "!!pairs [a: 1, a: 2]", "!!seq {}", "!!map []", "!own x", "!<tag:yaml.org,2002:str> x", "&a {b: *a}", "&a [*a]",
    "*nothing", "{<<: *x}", "{<<: 5}", "{<<: [1]}", "{? [a, b] : c}", "{{a: 1}: 2}", "{1: 2}", "{null: 1}",
    "{true: 1}", "{1.5: 1}", "[", "{", "}", "'", '"', '"\\ud83d"', '"\\0"', '"\\x"', "|\n  a", ">-\n  a",
    "2024-01-01", "2024-13-45", "2001-12-14t21:59:43.10-05:00", "2001-99-99t99:99:99Z", "12:30:45", "1_000", "0x1F",
    "0o17", "0b2", ".inf", "-.inf", ".nan", "1e999", "-0", "1e", "+1", "9" * 400, "9" * 5_000, "-" + "9" * 5_000,
    "1." + "0" * 5_000, "yes", "No", "ON", "~", "null", "", "[]", "{}", "a: b", "- a", "%", "@x", "`x", "\x00",
    "\x07", "\x85", "\u2028", "\ufffe", "x" * 300, "x" * 5_000, "é" * 200, "x/" * 400, "[" * 100,
    "[" * 400 + "]" * 400, "{a: " * 300 + "}" * 300, "a\tb", "100%", "1e-400", "$HOME/x", "~nobody/x", "~",
)  # fmt: skip
_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
_MERGES = "m0: &m0 {k0: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}], k{n}: 1}}\n" for n in range(1, 24))


def yaml_line_changed(data: bytes, rng: random.Random) -> bytes:
    """A setting with another value, under another name, at another depth, or twice."""
    lines = data.decode("utf-8", "replace").split("\n")
    settings = [place for place, line in enumerate(lines) if ":" in line.partition("#")[0]]
    if not settings:
        return inserted(data, rng)
    place = rng.choice(settings)
    name, _, rest = lines[place].partition(":")
    change = rng.randrange(8)
    if change == 0:
        lines[place] = rng.choice((" ", "  ", "\t", "- ", "? ", "  - ")) + lines[place]
    elif change == 1:
        lines.insert(rng.choice(settings), lines[place])
    elif change == 2:
        lines[place] = (
            f"{rng.choice((name[:-1], name.upper(), name + '.x', '1', 'null', '[a]', '{}', '<<', '&k k'))}:{rest}"
        )
    else:
        lines[place] = f"{name}: {rng.choice(VALUES)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def yaml_bombed(data: bytes, rng: random.Random) -> bytes:
    """Aliases of aliases, a second document, or directives."""
    more = rng.choice(
        (_BOMB, _MERGES, "---\nmodel: x\n", "%YAML 1.1\n---\n", "%TAG ! tag:x,1:\n---\n", "- a\n", "&top\n")
    )
    return more.encode() + data if rng.random() < 0.5 else data + b"\n" + more.encode()


def yaml_as_json(data: bytes, rng: random.Random) -> bytes:
    """A settings file written as JSON, which is YAML too, with one node changed."""
    return spelled(node_changed(_tree_of(data), rng), rng, depths=(3, 60, 300))


def _tree_of(data: bytes) -> Any:
    """The plain tree of simple YAML: settings at the top, with their values as text, numbers or JSON."""
    tree: dict[str, Any] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        name, colon, rest = line.partition("#")[0].partition(":")
        if colon and name and not name.startswith((" ", "-", "#")):
            found = parsed(rest.encode("utf-8", "surrogatepass"))
            tree[name] = found if found is not None else rest.strip() or None
    return tree


YAML: tuple[Mutator, ...] = (*LINES, *[yaml_line_changed] * 9, yaml_bombed, yaml_as_json, yaml_as_json)
