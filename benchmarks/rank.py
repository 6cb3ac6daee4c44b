"""How long annotators wait for the ranking page's server: fifty at once, over HTTP, on the cores that there are.

    python -m benchmarks rank [--people 50] [--seconds 20] [--pause 1.0] [--items 20000]

A store of made-up answers is served by `posttrain rank`, a process of its own. Here is a client with a connection for
each annotator, who takes an item, ranks it, and now and then flags, takes back, holds longer or looks at the
statistics. Twice: with a pause in the mean between two actions of a person, which is quicker than anyone reads, and
without any, so that all fifty wait for an answer at any time. Seconds count from the sending of a request to the last
byte of its answer. Everything that was acknowledged has to be in the store at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.frame.alternate import threads
from benchmarks.frame.report import keep, print_table
from posttrain.data import feedback_db
from posttrain.data.feedback_db import Answer, Item
from posttrain.records import Message

GOAL = 0.1
"""Seconds that 19 of 20 actions may take."""
_SEVERAL = {"flag": 0.05, "note": 0.02, "undo": 0.05, "renew": 0.05, "statistics": 0.01}
_WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "are",
    "with",
    "they",
    "which",
    "between",
)


@dataclass(slots=True)
class Waits:
    """Seconds of every action, by what it was, and the events that were acknowledged."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: set[int] = field(default_factory=set)


class Annotator:
    """One person with a connection that stays open."""

    def __init__(self, name: str, address: str, waits: Waits) -> None:
        split = urlsplit(address)
        self._host, self._port = str(split.hostname), int(split.port or 80)
        self._name = name
        self._waits = waits
        self._random = random.Random(name)
        self._cookie = self._csrf = ""
        self._keys = 0

    async def enter(self) -> None:
        """Opens the page and enters a name."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        await self._page()
        form = urlencode({"name": self._name, "csrf": self._csrf})
        await self._ask("POST", "/enter", form.encode())
        await self._page()

    async def work(self, until: float, pause: float) -> None:
        """Takes and ranks items until it is time to stop."""
        if pause:
            await asyncio.sleep(self._random.random() * pause)  # nobody begins at the same instant
        while time.perf_counter() < until:
            shown = json.loads((await self._timed("next", "GET", "/api/next"))[1])["item"]
            if shown is None:
                raise SystemExit("the pool is too small for so many and so long: give more --items")
            await self._pause(pause)
            await self._several(shown, pause)
            keys = [answer["key"] for answer in shown["answers"]]
            self._random.shuffle(keys)
            ranked = await self._event("rank", shown["id"], tiers=[[key] for key in keys], seconds=pause)
            if self._random.random() < _SEVERAL["undo"] and ranked is not None:
                await self._pause(pause)
                await self._timed("undo", "POST", "/api/undo", self._body({"undoes": ranked}))
            await self._pause(pause)

    async def _several(self, shown: Mapping[str, Any], pause: float) -> None:
        """What is done now and then before a ranking."""
        chance = self._random.random
        if chance() < _SEVERAL["flag"]:
            await self._event("flag", shown["id"], flags=["wrong"], answer=shown["answers"][0]["key"])
            await self._pause(pause)
        if chance() < _SEVERAL["note"]:
            await self._event("note", shown["id"], text="close")
            await self._pause(pause)
        if chance() < _SEVERAL["renew"]:
            await self._timed("renew", "POST", "/api/renew", self._body({"item": shown["id"]}))
        if chance() < _SEVERAL["statistics"]:
            await self._timed("statistics", "GET", "/api/statistics")

    async def _event(self, kind: str, item: str, **parts: object) -> int | None:
        """The number of the event; None for one that came too late."""
        status, body = await self._timed(kind, "POST", "/api/events", self._body({"item": item, "kind": kind, **parts}))
        if status == 201:
            number = int(json.loads(body)["event"])
            self._waits.acknowledged.add(number)
            return number
        if status != 409:
            raise RuntimeError(f"{kind} of {item}: {status} {body!r:.200}")
        return None

    def _body(self, body: Mapping[str, object]) -> bytes:
        self._keys += 1
        return json.dumps({**body, "key": f"{self._name}-{self._keys}"}).encode()

    async def _pause(self, mean: float) -> None:
        if mean:
            await asyncio.sleep(self._random.expovariate(1 / mean))

    async def _page(self) -> None:
        _, page = await self._ask("GET", "/")
        found = re.search(rb'name="csrf"[^>]*(?:content|value)="([0-9a-f]+)"', page)
        self._csrf = found.group(1).decode() if found else ""

    async def _timed(self, action: str, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        began = time.perf_counter()
        answer = await self._ask(method, path, body)
        self._waits.seconds[action].append(time.perf_counter() - began)
        return answer

    async def _ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body of an answer."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(body)}"]
        lines += [f"Cookie: {self._cookie}", f"X-CSRF-Token: {self._csrf}"]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if found := re.search(r"set-cookie: ([^;]+)", head, re.IGNORECASE):
            self._cookie = found.group(1)
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        content = await self._reader.readexactly(int(length.group(1))) if length else b""
        return int(head.split(" ", 2)[1]), content


async def measured(address: str, given: argparse.Namespace, pause: float, turn: int) -> Waits:
    """The waits of all annotators."""
    waits = Waits()
    people = [Annotator(f"person {turn}.{number}", address, waits) for number in range(given.people)]
    for person in people:
        await person.enter()
    until = time.perf_counter() + given.seconds
    await asyncio.gather(*(person.work(until, pause) for person in people))
    return waits


def write_store(path: Path, items: int) -> None:
    """A store of made-up prompts of forty words with four answers of a hundred."""
    generator = random.Random(0)

    def text(words: int) -> str:
        return " ".join(generator.choice(_WORDS) for _ in range(words))

    with closing(feedback_db.create(path)) as connection:
        made = (
            Item(
                id=f"item-{number:06}",
                prompt=(Message(role="user", content=text(40)),),
                responses=[Answer(text=f"{k}. {text(100)}", stopped=True) for k in range(4)],
                seed=number,
            )
            for number in range(items)
        )
        feedback_db.add_items(connection, made)


def told(waits: Waits) -> list[dict[str, Any]]:
    """A row for each action and one for all: how many, and percentiles of their seconds."""
    every = [second for seconds in waits.seconds.values() for second in seconds]
    return [{"action": name, **_percentiles(seconds)} for name, seconds in [*waits.seconds.items(), ("all", every)]]


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
    return {"count": len(seconds), "p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "worst": max(seconds)}


def main() -> int:
    """1 when more than one action of twenty takes longer than the goal, with the pause."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks rank", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds in the mean between actions of a person")
    parser.add_argument("--items", type=int, default=20_000)
    given = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for turn, (way, pause) in enumerate({"paused": given.pause, "no pause": 0.0}.items()):
            found[way] = _run(Path(name) / f"{way}.db", given, pause, turn)
            print(f"{given.people} people, {given.seconds:g} s, {way}, {threads()} cores; milliseconds")
            print_table([_row(row) for row in found[way]])
    measured = {
        f"{way} {row['action']} {key}": row[key] for way, rows in found.items() for row in rows for key in _KEPT
    }
    keep("rank", {"people": given.people, "pause": given.pause, "seconds": given.seconds, "measured": measured})
    return int(found["paused"][-1]["p95"] > GOAL)


_KEPT = ("count", "p50", "p95", "p99")


def _run(path: Path, given: argparse.Namespace, pause: float, turn: int) -> list[dict[str, Any]]:
    write_store(path, given.items)
    command = [sys.executable, "-m", "posttrain", "rank", "--db", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = next(line.split()[-1] for line in server.stdout if line.startswith("rank at "))
        try:
            waits = asyncio.run(measured(address, given, pause, turn))
        finally:
            server.terminate()
            server.stdout.read()
    with closing(feedback_db.reader(path)) as connection:
        kept = {number for (number,) in connection.execute("SELECT id FROM events")}
    if not waits.acknowledged <= kept:
        raise SystemExit(f"{len(waits.acknowledged - kept)} acknowledged events are not in the store")
    return told(waits)


def _row(row: Mapping[str, Any]) -> dict[str, object]:
    return {name: f"{value * 1000:.1f}" if isinstance(value, float) else value for name, value in row.items()}
