"""A browser as far as a server can tell: it keeps cookies, sends tokens and origins, and reads JSON."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from rankings_at_hand import EVERYTHING_ONCE

from posttrain.feedback.server import Options, application
from posttrain.pages.serving import Serving

Serve: TypeAlias = "Callable[..., Callable[[], Caller]]"
"""What serves a store with these options, and gives a maker of callers at it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Caller:
    """One person's browser at a server, or who passes for it."""

    def __init__(self, address: str) -> None:
        self.host = urlsplit(address).netloc
        self.cookies: dict[str, str] = {}
        self.csrf = ""

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Asks as it is told, with the cookies that it has."""
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            connection.request(method, path, body=body, headers={**sent, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
            for line in response.headers.get_all("set-cookie") or []:
                self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(line).items()}
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=named, body=content)
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def open(self, path: str = "/") -> Answer:
        """Opens a page and takes its token."""
        answer = self.ask("GET", path, headers={"Accept": "text/html"})
        found = re.search(r'name="csrf"[^>]*(?:content|value)="([0-9a-f]{64})"', answer.text)
        self.csrf = found.group(1) if found else self.csrf
        return answer

    def enter(self, name: str) -> Answer:
        """Enters a name in the form."""
        self.open()
        form = urlencode({"name": name, "csrf": self.csrf}).encode()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": "null",
            "Sec-Fetch-Site": "same-origin",
        }
        answer = self.ask("POST", "/enter", form, headers)
        self.open()
        return answer

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """Sends JSON as a page does."""
        own = {"X-CSRF-Token": self.csrf, "Origin": f"http://{self.host}", "Content-Type": "application/json"}
        return self.ask("POST", path, json.dumps(body).encode(), own | headers)

    def say(self, item: str, kind: str, **parts: Any) -> Answer:
        return self.post("/api/events", {"item": item, "kind": kind, "key": str(uuid4()), **parts})


def served(stack: ExitStack, path: Path, **options: Any) -> Callable[[], Caller]:
    """Serves a store until the stack ends, and gives a maker of callers at it."""
    app = application(path, Options(**{"rules": EVERYTHING_ONCE, **options}))
    serving = stack.enter_context(Serving(app, host="127.0.0.1", port=0))
    return lambda: Caller(serving.address)
