"""Who asks: the session of a browser, and the server's token where it asks for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from posttrain.feedback import people
from posttrain.feedback.ledger import Ledger
from posttrain.pages.refused import Refused
from posttrain.pages.safety import cookie_in
from posttrain.pages.tokens import TokenDoor, with_cookie

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The cookies of one store's server, and what they open.

    `mark`: the store's own word, by which cookies, and what a page keeps in its browser, belong to this store alone.
    """

    mark: str
    token: TokenDoor

    @property
    def cookie(self) -> str:
        """The name of the cookie that holds a session."""
        return _cookie(self.mark)

    def session(self, request: Request) -> str:
        """The cookie that a browser came with, empty for none."""
        return cookie_in(request.headers, self.cookie)

    def signed(self, request: Request, action: Callable[[Ledger, str], T]) -> Callable[[Ledger], T]:
        """Work on the ledger by whoever asks. It raises Refused with 401 or 403 for those who may not."""
        session = self.session(request)

        def work(ledger: Ledger) -> T:
            found = people.annotator_of(ledger.connection, session) if session else None
            if found is None or not found[1]:  # a personal link is as good as the token
                self.token.require(request)
            if found is None:
                raise Refused(401, "enter your name first")
            return action(ledger, found[0])

        return work

    def let_in(self, request: Request, cookie: str, response: Response) -> Response:
        """The response with a session's cookie, which no script reads and no other site can have sent."""
        return with_cookie(request, self.cookie, cookie, response)


def door_of(mark: str, token: str, *, pages: tuple[str, ...]) -> Door:
    """The door of a store with this mark. `token` is empty where none is asked for; `pages` are the paths of pages."""
    return Door(mark=mark, token=TokenDoor(token=token, cookie=f"{_cookie(mark)}-token", pages=pages))


def _cookie(mark: str) -> str:
    return f"posttrain-{mark}"
