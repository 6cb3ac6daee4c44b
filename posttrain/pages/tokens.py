"""The token of a server that other machines reach: how it is made, and how a browser shows that it has it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from posttrain.counted import counted
from posttrain.errors import ConfigError, Problem
from posttrain.pages.refused import Refused
from posttrain.pages.safety import cookie_in, is_local, same_secret
from posttrain.pages.secret import new_secret

_SHORTEST = 16
_KEPT_FOR = 30 * 24 * 3600
# A cookie of this kind is not sent by a browser that was led here from elsewhere, a redirect included. A page that
# leads on is a place of ours to come from.
_GO_ON = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={0}"><a href="{0}">Go on</a>'


def token_for(host: str, given: str | None) -> str:
    """The token that an address carries, made where `given` is `auto` and others reach it; empty for none.

    Raises ConfigError where others could come in without one, or guess it.
    """
    local = is_local(host)
    if given == "auto":
        return "" if local else new_secret()
    if given is None and not local:
        what = f"{host} is reached from other machines, and nothing would keep strangers out"
        raise ConfigError([Problem(place="--token", what=what, fix="leave token out: one is made and printed")])
    if not local and given is not None and len(given) < _SHORTEST:
        what = f"the token has {counted(len(given), 'character')}, and {host} is reached from other machines"
        fix = f"give at least {_SHORTEST}, or leave token out: one is made and printed"
        raise ConfigError([Problem(place="--token", what=what, fix=fix)])
    return given or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDoor:
    """A server's token, empty where none is asked for, and the cookie in which a browser keeps it.

    `pages` are the paths of our own that somebody may be led to.
    """

    token: str
    cookie: str
    pages: tuple[str, ...]

    def is_open_to(self, request: Request) -> bool:
        """Whether a browser came with the token, or none is asked for."""
        return not self.token or same_secret(cookie_in(request.headers, self.cookie), self.token)

    def require(self, request: Request) -> None:
        """Raises Refused for a browser without the token."""
        if not self.is_open_to(request):
            raise Refused(403, "this server needs its token: open the address that it printed")

    def take(self, request: Request, token: str) -> Response:
        """The page that leads on once the token is right, or none is asked for. Raises Refused for a wrong one."""
        onward = self.going_on(request.url.path)
        if not self.token:
            return onward
        if not same_secret(token, self.token):
            raise Refused(403, "this is not the token of the server; open the address that it printed")
        return with_cookie(request, self.cookie, token, onward)

    def going_on(self, path: str) -> Response:
        """A page that leads to one of our own paths."""
        return HTMLResponse(_GO_ON.format(path if path in self.pages else "/"))


def with_cookie(request: Request, name: str, value: str, response: Response) -> Response:
    """The response with a cookie that no script reads and no other site can have sent."""
    secure = request.url.scheme == "https"
    response.set_cookie(name, value, max_age=_KEPT_FOR, httponly=True, samesite="strict", secure=secure)
    return response
