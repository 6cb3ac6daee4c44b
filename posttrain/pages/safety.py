"""What stands between the network and the pages: who may ask at all, how much, from where, and what a browser may do.

Model texts are data of strangers, and a server on this machine can be asked by any page that is open in its browser.
So a page runs nothing but its own files, whatever an answer holds; what changes something carries a token that only our
page can read; and on this machine only names of this machine are answered, since a stranger's name may be made to point
here (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from posttrain.pages.refused import Refused

LARGEST_BODY = 64 * 1024
CSRF_HEADER = "x-csrf-token"
ENTER = "/enter"
"""The one path whose token may come in the form: a form sends no headers of its own."""

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def is_local(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def same_secret(given: str, secret: str) -> bool:
    """Whether two texts are the same, in a time that does not tell how much of them is."""
    return hmac.compare_digest(_digest(given), _digest(secret))


def csrf_of(cookie: str) -> str:
    """The token that a page with this cookie has to send: no other site can read the page or the cookie."""
    return hmac.new(cookie.encode("utf-8", "surrogatepass"), b"csrf", hashlib.sha256).hexdigest()


def cookie_in(headers: Headers, name: str) -> str:
    """The value of a cookie; empty where there is none."""
    jar = SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    return jar[name].value if name in jar else ""


class Safe:
    """An application behind the checks; what a check refuses never reaches it.

    `local`: it listens on this machine alone, and answers to names of this machine alone, `host` among them. `cookie`
    is the name of the session's. `tell` is told in a line of what nobody foresaw, without texts, links or tokens.
    """

    def __init__(self, app: ASGIApp, *, local: bool, host: str, cookie: str, tell: Callable[[str], None]) -> None:
        self._app = app
        self._names = _LOCAL | {host} if local else None
        self._cookie = cookie
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            self._check(scope)
            await self._app(scope, _limited(receive), answer)
        except Refused as refused:
            await answer.error(refused.status, str(refused))
        except Exception as error:
            part = scope["path"].split("/")[1][:20]
            self._tell(f"{scope['method']} /{part}…  failed: {type(error).__name__}: {error}"[:500])
            await answer.error(500, "the server failed; what was sent may be sent again")

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._names is not None and _hostname(headers.get("host", "")) not in self._names:
            raise Refused(403, "this server answers to names of this machine alone; open the address that it printed")
        if scope["method"] in ("GET", "HEAD"):
            return
        _check_origin(headers, scope["scheme"])
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            raise Refused(413, f"the request is too large; at most {LARGEST_BODY:,} bytes are read")
        if scope["path"] != ENTER:
            check_csrf(cookie_in(headers, self._cookie), headers.get(CSRF_HEADER, ""))


def check_csrf(cookie: str, token: str) -> None:
    """Raises Refused unless the token is that of the cookie."""
    if not cookie or not same_secret(token, csrf_of(cookie)):
        raise Refused(403, "the token of the page is missing or old; load the page again")


def _check_origin(headers: Headers, scheme: str) -> None:
    """Raises Refused for what another site sends.

    A form of ours says `null` for its origin, since our pages send no referrer; then the browser itself says whether it
    came from the same place. Who says neither is no browser, and has to have the token all the same. On this machine no
    proxy speaks HTTPS in our place: there the origin has our own scheme.
    """
    origin, site = headers.get("origin", "null"), headers.get("sec-fetch-site", "same-origin")
    host, said = headers.get("host", ""), urlsplit(origin)
    own = origin == "null" or (said.netloc == host and (said.scheme == scheme or _hostname(host) not in _LOCAL))
    if not own or site not in ("same-origin", "none"):
        raise Refused(403, "another site sent this")


def _hostname(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _limited(receive: Receive) -> Receive:
    """What is received, as long as it is within the limit: a length may be left out, or be a lie."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            raise Refused(413, f"the request is too large; at most {LARGEST_BODY:,} bytes are read")
        return message

    return limited


class _Answer:
    """An answer on its way, with our headers on it where it has none of its own."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._caching = "no-cache" if scope["path"].startswith("/static/") else "no-store"
        self._is_read = "text/html" in Headers(scope=scope).get("accept", "")  # by a person, rather than by a page
        self._begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers["cache-control"] = self._caching
        await self._send(message)

    async def error(self, status: int, why: str) -> None:
        """Sends an error, unless an answer has begun."""
        if self._begun:
            return
        body = why.encode() if self._is_read else orjson.dumps({"error": why})
        kind = b"text/plain; charset=utf-8" if self._is_read else b"application/json"
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
