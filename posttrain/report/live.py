"""`posttrain report RUN --serve`: the report of a run that goes on, and every rollout that it kept, on this machine.

A page asks every few seconds whether the run's files changed, and then for the page anew, of which it takes what is
different. Rollouts are read when somebody looks at them.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from posttrain.console import Console
from posttrain.errors import PosttrainError
from posttrain.pages.refused import Refused
from posttrain.pages.safety import Safe, is_local
from posttrain.pages.secret import new_secret
from posttrain.pages.serving import Serving
from posttrain.pages.tokens import TokenDoor, token_for
from posttrain.records import JSON
from posttrain.report import scripts
from posttrain.report.html import page
from posttrain.report.inspected import Inspected
from posttrain.report.inspection import files_of, in_brief, texts_of, tokenizers_of, whole
from posttrain.report.reading import read
from posttrain.report.report import report_of
from posttrain.report.sections.inspector import followed
from posttrain.run.evaluations import FOLDER as EVALUATIONS

T = TypeVar("T")
# What the page may do stands in the page itself, with the hashes of its scripts; this is what a page cannot say.
_FRAMES = "frame-ancestors 'none'"
_LINES = ("metrics.jsonl", "samples.jsonl", "problems.jsonl", "reward_failures.jsonl")
_WATCHED = ("run.json", *_LINES, "reward_card.json", EVALUATIONS, "inspect")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run is served. `token` is empty where none is asked for; `tell` is told in a line what failed."""

    host: str = "127.0.0.1"
    token: str = ""
    tell: Callable[[str], None] = lambda line: None


def follow(path: str | os.PathLike[str], *, host: str, port: int, token: str | None, console: Console) -> None:
    """Serves the report of a run until it is interrupted.

    Raises ConfigError for an address that cannot be had, ModelError where no run wrote the folder.
    """
    read(path)
    options = Options(host=host, token=token_for(host, token), tell=console.say)
    with Serving(application(Path(path), options), host=host, port=port) as serving:
        console.say(f"report at {serving.address}/" + (f"?token={options.token}" if options.token else ""))
        console.say("Ctrl-C ends it; the page follows the run while it is open")
        with suppress(KeyboardInterrupt):
            serving.wait()


def application(path: Path, options: Options) -> Starlette:
    """The application over a run folder, of which it only reads.

    Raises ValueError for an address that others reach without a token.
    """
    local = is_local(options.host)
    if not local and not options.token:
        raise ValueError(f"{options.host} is reached from other machines: it needs a token")
    door = TokenDoor(token=options.token, cookie=f"posttrain-report-{new_secret()[:8]}", pages=("/",))
    server = _Server(_Followed(path=path), door)
    safe = Middleware(Safe, local=local, host=options.host, cookie=door.cookie, tell=options.tell)
    return Starlette(routes=server.routes(), middleware=[safe], exception_handlers={HTTPException: _absent})


@dataclass(slots=True, kw_only=True)
class _Followed:
    """A run as it was read last: its page, and its files of the inspector, until one of its files changes."""

    path: Path
    tokenizers: Sequence[Path] = ()
    _mark: str = ""
    _page: bytes = b""
    _files: dict[int, Inspected] = field(default_factory=dict[int, Inspected])
    _one: threading.Lock = field(default_factory=threading.Lock)

    def mark(self) -> str:
        """A word for the state of the run's files: another one, once one of them changed."""
        inside, seen = self.path / "run", hashlib.sha256()
        for name in _WATCHED:
            place = inside / name
            for file in (place, *(sorted(place.iterdir()) if place.is_dir() else ())):
                with suppress(OSError):
                    about = file.stat()
                    seen.update(f"{file} {about.st_size} {about.st_mtime_ns}\n".encode("utf-8", "surrogatepass"))
        return seen.hexdigest()[:16]

    def page(self) -> bytes:
        """The page of the run as it is. Raises PosttrainError for a folder that cannot be read."""
        with self._one:
            self._look()
            return self._page

    def file(self, step: int) -> Inspected:
        """The inspector's file of a step. Raises Refused where there is none."""
        with self._one:
            self._look()
            if step not in self._files:
                raise Refused(404, f"the run kept no rollouts of step {step}")
            return self._files[step]

    def _look(self) -> None:
        mark = self.mark()
        if mark == self._mark:
            return
        run = read(self.path)
        self.tokenizers = tokenizers_of(run)
        self._files = {file.step: file for file in files_of(run)[0]}
        text = page(report_of(run, {"inspector": followed}), linked=True, served=True)
        self._page = text.encode("utf-8", "backslashreplace")  # half a character, as in a page on the disk
        self._mark = mark


class _Server:
    """The answers to requests, each a method."""

    def __init__(self, run: _Followed, door: TokenDoor) -> None:
        self._run = run
        self._door = door

    def routes(self) -> list[Route]:
        """Every path that is answered."""
        return [
            Route("/", self.page),
            Route("/state", self.state),
            Route(f"/{scripts.PLOTLY}", self.plotly),
            Route("/inspect/{step:int}", self.listed),
            Route("/inspect/{step:int}/{row:int}", self.rollout),
        ]

    async def page(self, request: Request) -> Response:
        """The report."""
        if token := request.query_params.get("token"):
            return self._door.take(request, token)
        return HTMLResponse(await self._asked(request, self._run.page), headers={"content-security-policy": _FRAMES})

    async def state(self, request: Request) -> Response:
        """A word for what the run's files hold."""
        return _json({"mark": await self._asked(request, self._run.mark)})

    async def plotly(self, request: Request) -> Response:
        """Plotly's script."""
        return Response(await self._asked(request, scripts.plotly), media_type="text/javascript")

    async def listed(self, request: Request) -> Response:
        """The rollouts of a step in brief."""
        step = int(request.path_params["step"])

        def found() -> list[JSON]:
            return [in_brief(brief, place) for place, brief in enumerate(self._run.file(step).briefs)]

        return _json({"rollouts": await self._asked(request, found)})

    async def rollout(self, request: Request) -> Response:
        """A rollout with all its numbers, and the texts of its tokens."""
        step, row = int(request.path_params["step"]), int(request.path_params["row"])

        def found() -> dict[str, JSON]:
            file = self._run.file(step)
            if row >= len(file.briefs):
                raise Refused(404, f"step {step} has {len(file.briefs):,} rollouts")
            rollout = whole(file, row)
            pieces: JSON = texts_of(rollout, file, self._run.tokenizers)
            return {"rollout": rollout, "settings": dict(file.settings), "pieces": pieces}

        return _json(await self._asked(request, found))

    async def _asked(self, request: Request, work: Callable[[], T]) -> T:
        """What work comes to, for whoever may ask. Raises Refused for others, and for files that cannot be read."""
        self._door.require(request)
        try:
            return await run_in_threadpool(work)
        except PosttrainError as error:
            raise Refused(503, str(error)) from error


def _json(facts: dict[str, JSON]) -> Response:
    return Response(orjson.dumps(facts), media_type="application/json")


def _absent(request: Request, error: Exception) -> Response:
    """What is said of a path or a method that there is not."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return Response(orjson.dumps({"error": "there is no such page"}), status_code=status, media_type="application/json")
