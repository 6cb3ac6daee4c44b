"""Ways in which bytes, lines, tables and JSON can be wrong."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Mutator: TypeAlias = Callable[[bytes, random.Random], bytes]

HUGE, DEEP, LONG = "@huge@", "@deep@", "@long@"
DEPTHS = (3, 60, 300, 1_100, 5_000, 100_000)
WORDS = (
    b"NaN", b"-Infinity", b"1e999", b"-0", b"1" + b"0" * 400, b"9" * 5_000, b"null", b"true", b"{}", b"[]", b'""',
    b"'", b'"', b",", b":", b"\n", b"\r", b"\t", b"\x00", b"\x1b[2J", b"\xff", b"\xc3", b"\xed\xa0\xbd", b"\xf8\x88",
    b"\\ud83d", b"\\u0000", b"\\", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"- ", b"---\n", b"...", b"#",
    b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system [id] ", b"!!binary ", b"!!float ", b"!!int ",
    b"!!timestamp ", b"? ", b"%YAML 1.1\n", b"@", b"`", b"|", b">", b"~", b"../../../../etc/passwd", b"<script>",
    b"$HOME", b"%",
)  # fmt: skip


# --- bytes ----------------------------------------------------------------------------------------------------------


def flip(data: bytes, rng: random.Random) -> bytes:
    """Some bits the other way."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing, or all of it."""
    return data[: rng.choice((0, rng.randint(0, len(data)), max(0, len(data) - rng.randint(1, 40))))]


def without(data: bytes, rng: random.Random) -> bytes:
    """A piece is missing."""
    start = rng.randint(0, len(data))
    return data[:start] + data[start + rng.randint(1, 30) :]


def twice(data: bytes, rng: random.Random) -> bytes:
    """A piece stands again, here or elsewhere, a few times or many."""
    start, place = rng.randint(0, len(data)), rng.randint(0, len(data))
    piece = data[start : start + rng.choice((1, 5, 40, 400))]
    return data[:place] + piece * rng.choice((1, 1, 2, 50, 1_000)) + data[place:]


def inserted(data: bytes, rng: random.Random) -> bytes:
    """A word that means something to some parser."""
    place = rng.randint(0, len(data))
    return data[:place] + rng.choice(WORDS) + data[place + rng.choice((0, 0, 1, 4)) :]


def recoded(data: bytes, rng: random.Random) -> bytes:
    """Another encoding, another kind of line end, or a mark at the beginning."""
    text = data.decode("utf-8", "replace")
    encodings = ("utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "gb18030", "utf-7")
    made = [lambda name=name: text.encode(name, "replace") for name in encodings]
    made += [lambda: data.replace(b"\n", b"\r\n"), lambda: data.replace(b"\n", b"\r"), lambda: b"\xef\xbb\xbf" + data]
    made += [
        lambda: data.replace(b" ", b"\xc2\xa0"),
        lambda: data.replace(b"\n", b""),
        lambda: data.replace(b'"', b"'"),
    ]
    return rng.choice(made)()


def packed(data: bytes, rng: random.Random) -> bytes:
    """Compressed, and maybe damaged so; or only the beginning of such a file."""
    whole = gzip.compress(data, mtime=0)
    return rng.choice((whole, flip(whole, rng), cut(whole, rng), whole + data, whole + whole, b"\x1f\x8b" + data))


BYTES: tuple[Mutator, ...] = (flip, cut, without, twice, inserted, inserted, recoded, packed)


# --- lines ----------------------------------------------------------------------------------------------------------


def lines_moved(data: bytes, rng: random.Random) -> bytes:
    """A line gone, doubled, elsewhere, joined with the next, or blank."""
    lines = data.split(b"\n")
    place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    line = lines.pop(place)
    change = rng.randrange(5)
    if change == 1:
        lines[place:place] = [line, line]
    elif change == 2:
        lines.insert(other, line)
    elif change == 3:
        lines[place : place + 1] = [line + (lines[place] if place < len(lines) else b"")]
    elif change == 4:
        lines.insert(place, b" \t")
    return b"\n".join(lines)


def cells_moved(data: bytes, rng: random.Random) -> bytes:
    """A separator more or less, or another cell in the place of one."""
    mark = rng.choice((b",", b"\t", b";", b'"'))
    cells = data.split(mark)
    place = rng.randrange(len(cells))
    change = rng.randrange(4)
    if change == 0:
        cells[place : place + 2] = [b" ".join(cells[place : place + 2])]
    elif change == 1:
        cells.insert(place, rng.choice(WORDS))
    elif change == 2:
        cells[place] = json.dumps(value(rng)).encode()
    else:
        cells[place], cells[0] = cells[0], cells[place]
    return mark.join(cells)


LINES: tuple[Mutator, ...] = (*BYTES, lines_moved, lines_moved)
TABLES: tuple[Mutator, ...] = (*LINES, cells_moved, cells_moved, cells_moved)


# --- JSON -----------------------------------------------------------------------------------------------------------


def value(rng: random.Random) -> Any:
    """Anything that JSON can hold, odd things most of all."""
    talk = [{"role": rng.choice(("user", "assistant", "system", "tool", "usr")), "content": "x"}]
    plain = [None, True, False, 0, 1, -1, 2, 7, 1.5, -0.0, 1e308, 5e-324, 2**31, 2**53 + 1, 2**63, 2**64, 10**400]
    odd = [float("nan"), float("inf"), float("-inf"), HUGE, DEEP, LONG, -(2**63), 1e999]
    texts = [
        "",
        " ",
        "x",
        "1",
        "1.5",
        "-1",
        "nan",
        "inf",
        "1e999",
        "true",
        "null",
        "good",
        "\x00",
        "\ud83d",
        "\u202e",
        "é",
    ]
    texts += [
        "\n\nHuman: a\n\nAssistant: b",
        "\n\nAssistant:",
        "<|im_end|>",
        "</s>",
        "../../x",
        "a/b",
        "1_000",
        "²",
        "٣",
    ]
    nested = [[], {}, [None], [[]], [0, 1], [1, 2, 3], ["a", "b"], {"": ""}, {"a": {"b": []}}, talk, talk * 2, talk[0]]
    return rng.choice(rng.choice((plain, odd, texts, nested)))


def node_changed(root: Any, rng: random.Random) -> Any:
    """A tree with one node of another value or type, gone, renamed, wrapped, doubled, or exchanged with another."""
    places = _places(root)
    if not places:
        return value(rng)
    holder, key = rng.choice(places)
    change = rng.randrange(8)
    if change == 0 and isinstance(holder, dict):
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice((f"{key} ", str(key).upper(), "", "k" * 300, "\x00", "label", "prompt", "text", "id"))] = (
            holder.pop(key)
        )
    elif change == 2:
        holder[key] = rng.choice(([holder[key]], {"value": holder[key]}, [holder[key], holder[key]], str(holder[key])))
    elif change == 3:
        other, name = rng.choice(places)
        holder[key], other[name] = other[name], holder[key]
    elif change == 4 and isinstance(holder, dict):
        holder[rng.choice(("label", "ranks", "weight", "margin", "stopped", "id", "system", "train", "x"))] = value(rng)
    elif change == 5 and isinstance(holder, list):
        holder.insert(key, value(rng))
    else:
        holder[key] = value(rng)
    return root


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Every holder and key in a tree."""
    found: list[tuple[Any, Any]] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        found += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    return found


def spelled(root: Any, rng: random.Random, depths: Sequence[int] = DEPTHS) -> bytes:
    """A tree as JSON, with what the library would not write: too many digits, too deep, too long, keys twice."""
    text = json.dumps(root, ensure_ascii=rng.random() < 0.7, indent=rng.choice((None, None, None, 1)))
    depth = rng.choice(depths)
    mark = rng.choice(("[]", '{"a":}'))
    opening = mark[:-1] * depth
    text = text.replace(f'"{HUGE}"', "9" * rng.choice((400, 5_000))).replace(HUGE, "9" * 500)
    text = text.replace(f'"{DEEP}"', opening + ("0" if mark != "[]" else "") + mark[-1] * depth)
    text = text.replace(LONG, rng.choice("a é\\").replace("\\", "\\n") * rng.choice((300, 70_000)))
    if rng.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + ", " + text[1:-1] + "}"
    return text.encode("utf-8", "surrogatepass")


def json_changed(data: bytes, rng: random.Random) -> bytes:
    """A node of a JSON file, or of one of its lines."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    if len(lines) > 1 and parsed(lines[0]) is not None:
        place = rng.randrange(len(lines))
        tree = parsed(lines[place])
        lines[place] = spelled(node_changed(tree, rng), rng).replace(b"\n", b" ") if tree is not None else b"{}"
        return b"\n".join(lines) + b"\n"
    tree = parsed(data)
    return inserted(data, rng) if tree is None else spelled(node_changed(tree, rng), rng)


def parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


JSON: tuple[Mutator, ...] = (*LINES, *[json_changed] * 12)
