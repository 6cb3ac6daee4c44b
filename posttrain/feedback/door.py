"""Who asks: the session of a browser, and the server's token where it asks for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from posttrain.feedback import people
from posttrain.feedback.asked import Refused
from posttrain.feedback.ledger import Ledger
from posttrain.feedback.safety import cookie_in, same_secret

T = TypeVar("T")
_KEPT_FOR = 30 * 24 * 3600
# A cookie of this kind is not sent by a browser that was led here from elsewhere, a redirect included. A page that
# leads on is a place of ours to come from.
_GO_ON = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={0}"><a href="{0}">Go on</a>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The cookies of one store's server, and what they open. `token` is empty where none is asked for.

    `mark`: the store's own word, by which cookies, and what a page keeps in its browser, belong to this store alone.
    """

    mark: str
    token: str

    @property
    def cookie(self) -> str:
        """The name of the cookie that holds a session."""
        return f"posttrain-{self.mark}"

    @property
    def token_cookie(self) -> str:
        """The name of the cookie that holds the server's token."""
        return f"{self.cookie}-token"

    def session(self, request: Request) -> str:
        """The cookie that a browser came with, empty for none."""
        return cookie_in(request.headers, self.cookie)

    def has_token(self, request: Request) -> bool:
        """Whether a browser came with the token, or none is asked for."""
        return not self.token or same_secret(cookie_in(request.headers, self.token_cookie), self.token)

    def signed(self, request: Request, action: Callable[[Ledger, str], T]) -> Callable[[Ledger], T]:
        """Work on the ledger by whoever asks. It raises Refused with 401 or 403 for those who may not."""
        session, trusted = self.session(request), self.has_token(request)

        def work(ledger: Ledger) -> T:
            found = people.annotator_of(ledger.connection, session) if session else None
            linked = found is not None and found[1]
            if not trusted and not linked:  # a personal link is as good as the token
                raise Refused(403, "this server needs its token: open the address that it printed")
            if found is None:
                raise Refused(401, "enter your name first")
            return action(ledger, found[0])

        return work

    def require_token(self, request: Request) -> None:
        """Raises Refused for a browser without the token."""
        if not self.has_token(request):
            raise Refused(403, "this server needs its token: open the address that it printed")

    def let_in(self, request: Request, cookie: str, response: Response) -> Response:
        """The response with a session's cookie, which no script reads and no other site can have sent."""
        return self._with_cookie(request, self.cookie, cookie, response)

    def take_token(self, request: Request, token: str) -> Response:
        """The page that leads on once the token is right, or none is asked for. Raises Refused for a wrong one."""
        if not self.token:
            return going_on(request.url.path)
        if not same_secret(token, self.token):
            raise Refused(403, "this is not the token of the server; open the address that it printed")
        return self._with_cookie(request, self.token_cookie, token, going_on(request.url.path))

    def _with_cookie(self, request: Request, name: str, value: str, response: Response) -> Response:
        secure = request.url.scheme == "https"
        response.set_cookie(name, value, max_age=_KEPT_FOR, httponly=True, samesite="strict", secure=secure)
        return response


def going_on(path: str) -> Response:
    """A page that leads to one of our own paths."""
    return HTMLResponse(_GO_ON.format(path if path in ("/", "/statistics", "/adjudicate") else "/"))
