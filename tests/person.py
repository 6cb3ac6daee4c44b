"""A person at a ranking page, without a browser: `python tests/person.py ADDRESS NAME` ranks all that there is.

Answers are ranked in the order of their texts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener


class Person:
    """Someone who opened the page under a name."""

    def __init__(self, address: str, name: str) -> None:
        self._address = address.rstrip("/")
        self._opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))
        token = _token(self._read("/"))
        self._token = _token(self._read("/enter", urlencode({"csrf": token, "name": name}).encode()))

    def rank_all(self) -> int:
        """How many items were ranked until there were no more."""
        count = 0
        while (item := json.loads(self._read("/api/next"))["item"]) is not None:
            tiers = [[each["key"]] for each in sorted(item["answers"], key=lambda answer: answer["text"])]
            self.say({"item": item["id"], "kind": "rank", "key": f"{count} {item['id']}", "tiers": tiers})
            count += 1
        return count

    def say(self, event: Mapping[str, Any]) -> None:
        self._read("/api/events", json.dumps(event).encode())

    def _read(self, path: str, body: bytes | None = None) -> str:
        headers = {"X-CSRF-Token": getattr(self, "_token", "")}
        with self._opener.open(Request(self._address + path, data=body, headers=headers), timeout=30) as answer:
            return answer.read().decode()


def _token(page: str) -> str:
    found = re.search(r'name="csrf"\s+(?:content|value)="([^"]+)"', page)
    assert found is not None, page
    return found.group(1)


if __name__ == "__main__":
    Person(sys.argv[1], sys.argv[2]).rank_all()
