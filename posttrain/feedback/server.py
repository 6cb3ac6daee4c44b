"""The ranking server: its pages, and what they ask for and send, over one store."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from posttrain.feedback import actions, people
from posttrain.feedback.actions import Told
from posttrain.feedback.asked import asked_of, body_of, item_of, key_of, name_of, undoes_of
from posttrain.feedback.assigning import Rules
from posttrain.feedback.desk import Desk
from posttrain.feedback.door import Door, door_of
from posttrain.feedback.kept import mark_of
from posttrain.feedback.ledger import Ledger
from posttrain.feedback.statistics import Overview
from posttrain.pages.refused import Refused
from posttrain.pages.safety import CSRF_HEADER, ENTER, Safe, check_csrf, csrf_of, is_local
from posttrain.pages.secret import new_secret

T = TypeVar("T")
HERE = Path(__file__).parent
_PAGES = {
    "/": ("page.html", "Rank"),
    "/statistics": ("statistics.html", "Statistics"),
    "/adjudicate": ("adjudicate.html", "Disputed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a store is served. `token` is empty where none is asked for, `tell` is told in a line what failed."""

    rules: Rules = field(default_factory=Rules)
    host: str = "127.0.0.1"
    token: str = ""
    guidelines: str = ""
    tell: Callable[[str], None] = lambda line: None
    clock: Callable[[], float] = time.time


def application(store: Path, options: Options) -> Starlette:
    """The application over a store, which it holds open until it is shut down. Raises DataError for what is no store.

    Raises ValueError for an address that others reach without a token.
    """
    local = is_local(options.host)
    if not local and not options.token:
        raise ValueError(f"{options.host} is reached from other machines: it needs a token")
    desk = Desk(store, options.rules, clock=options.clock)
    overview = Overview(store, options.rules, clock=options.clock)
    door = door_of(desk.do(lambda ledger: mark_of(ledger.connection)), options.token, pages=tuple(_PAGES))
    server = _Server(desk, overview, door, options)
    safe = Middleware(Safe, local=local, host=options.host, cookie=door.cookie, tell=options.tell)
    return Starlette(
        routes=server.routes(), middleware=[safe], exception_handlers={HTTPException: _absent}, lifespan=server.lifespan
    )


class _Server:
    """The answers to requests, each a method."""

    def __init__(self, desk: Desk, overview: Overview, door: Door, options: Options) -> None:
        self._desk = desk
        self._overview = overview
        self._door = door
        self._options = options
        self._files = StaticFiles(directory=HERE / "static", packages=[("posttrain.pages", "static")])
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )

    def routes(self) -> list[Route | Mount]:
        """Every path that is answered."""
        return [
            *(Route(path, self.page) for path in _PAGES),
            Route(ENTER, self.enter, methods=["POST"]),
            Route("/leave", self.leave, methods=["POST"]),
            Route("/a/{link}", self.link),
            Route("/api/next", self.next),
            Route("/api/item/{item}", self.item),
            Route("/api/events", self.event, methods=["POST"]),
            Route("/api/undo", self.undo, methods=["POST"]),
            Route("/api/renew", self.renew, methods=["POST"]),
            Route("/api/statistics", self.statistics),
            Route("/api/disputed", self.disputed),
            Route("/api/guidelines", self.guidelines),
            Mount("/static", self.files),
        ]

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        """While inside, requests are answered; after it the store is closed."""
        yield
        await run_in_threadpool(self._desk.close)
        await run_in_threadpool(self._overview.close)

    async def files(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The files of the pages, for whoever may see a page."""
        request = Request(scope)
        if not self._door.token.is_open_to(request):
            await self._signed(request, _nothing)
        await self._files(scope, receive, send)

    # --- pages ----------------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """A page, or the form for a name."""
        if token := request.query_params.get("token"):
            return self._door.token.take(request, token)
        try:
            name = await self._signed(request, lambda ledger, annotator: annotator)
        except Refused as refused:
            if refused.status != 401:
                raise
            return self._form(request)
        template, title = _PAGES[request.url.path]
        return self._rendered(template, self._door.session(request), name=name, title=title)

    async def enter(self, request: Request) -> Response:
        """A session under the name in a form."""
        self._door.token.require(request)
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        token = request.headers.get(CSRF_HEADER) or form.get("csrf", [""])[0]
        check_csrf(self._door.session(request), token)
        typed = form.get("name", [""])[0]
        try:
            name = name_of(typed)
            cookie = await self._desk.ask(lambda ledger: people.enter_by_name(ledger.connection, name))
        except Refused as refused:
            if refused.status == 503:
                raise
            return self._form(request, name=typed, error=str(refused), status=refused.status)
        return self._door.let_in(request, cookie, RedirectResponse("/", status_code=303))

    async def leave(self, request: Request) -> Response:
        """The end of a session."""
        cookie = self._door.session(request)
        await self._desk.ask(lambda ledger: people.leave(ledger.connection, cookie))
        return RedirectResponse("/", status_code=303)

    async def link(self, request: Request) -> Response:
        """A session of whom a personal link is of."""
        link = str(request.path_params["link"])
        cookie = await self._desk.ask(lambda ledger: people.enter_by_link(ledger.connection, link))
        return self._door.let_in(request, cookie, self._door.token.going_on("/"))

    def _form(self, request: Request, *, name: str = "", error: str = "", status: int = 200) -> Response:
        """The form for a name; a browser without a cookie gets one, from which the form's token is made."""
        cookie = self._door.session(request) or new_secret()
        form = self._rendered("enter.html", cookie, name=name, title="Who ranks?", error=error, status=status)
        return self._door.let_in(request, cookie, form)

    def _rendered(self, template: str, cookie: str, *, status: int = 200, **values: str) -> Response:
        text = self._templates.get_template(template).render(csrf=csrf_of(cookie), store=self._door.mark, **values)
        return HTMLResponse(text, status_code=status)

    # --- what a page asks for and sends ---------------------------------------------------------------------------

    async def next(self, request: Request) -> Response:
        """The next item."""
        return _json(await self._signed(request, actions.next_item))

    async def item(self, request: Request) -> Response:
        """An item of one's own."""
        item = str(request.path_params["item"])
        return _json(await self._signed(request, lambda ledger, who: actions.own_item(ledger, who, item)))

    async def event(self, request: Request) -> Response:
        """What was said of an item is kept: 201 where it is new, 200 where it was kept before."""
        asked = asked_of(body_of(await request.body()))
        told, new = await self._signed(request, lambda ledger, who: actions.say(ledger, who, asked))
        return _json(told, status=201 if new else 200)

    async def undo(self, request: Request) -> Response:
        """One's newest event is taken back."""
        body = body_of(await request.body())
        key, undoes = key_of(body), undoes_of(body)
        return _json(await self._signed(request, lambda ledger, who: actions.take_back(ledger, who, key, undoes)))

    async def renew(self, request: Request) -> Response:
        """An item is held for longer."""
        item = item_of(body_of(await request.body()))
        return _json(await self._signed(request, lambda ledger, who: actions.renew(ledger, who, item)))

    async def statistics(self, request: Request) -> Response:
        """The state of the ranking."""
        await self._signed(request, _nothing)
        return _json(await run_in_threadpool(self._overview.statistics))

    async def disputed(self, request: Request) -> Response:
        """What people disagree on."""
        await self._signed(request, _nothing)
        return _json(await run_in_threadpool(partial(self._overview.disputes, request.query_params.get("item"))))

    async def guidelines(self, request: Request) -> Response:
        """What annotators are asked to look at."""
        await self._signed(request, _nothing)
        return _json({"text": self._options.guidelines})

    async def _signed(self, request: Request, action: Callable[[Ledger, str], T]) -> T:
        return await self._desk.ask(self._door.signed(request, action))


def _nothing(ledger: Ledger, annotator: str) -> None:
    """Who asks is looked at, and nothing is done."""


def _json(told: Told, *, status: int = 200) -> Response:
    return Response(orjson.dumps(told), status_code=status, media_type="application/json")


def _absent(request: Request, error: Exception) -> Response:
    """What is said of a path or a method that there is not."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    said = {404: "there is no such page", 405: "this page is not asked for in this way"}
    return _json({"error": said.get(status, "the request cannot be answered")}, status=status)
