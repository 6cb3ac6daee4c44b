"""A server of pages while it runs: its address, and its end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from types import TracebackType

import uvicorn
from starlette.applications import Starlette

from posttrain.errors import ConfigError, Problem

_ENDS_IN = 5  # seconds that requests under way have when the server ends
_KEPT_OPEN = 75  # seconds in which a page that is read need not connect again
_WAITING = 512  # connections that may wait to be taken
_LOOK = 0.01


class Serving:
    """An application that is served while the context lasts, in a thread of its own, so that Ctrl-C stays ours.

    Raises ConfigError for an address that cannot be taken. `port` 0 takes any that is free.
    """

    def __init__(self, app: Starlette, *, host: str, port: int) -> None:
        self._socket = _listening(host, port)
        self.address = _address(host, self._socket.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",  # what fails is told by our own middleware; addresses hold links and tokens
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEPT_OPEN,
            timeout_graceful_shutdown=_ENDS_IN,
        )
        self._server = uvicorn.Server(config)
        self._failed: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="server", daemon=True)

    def __enter__(self) -> Serving:
        self._thread.start()
        while not self._ended.is_set() and not self._server.started:
            time.sleep(_LOOK)
        self._raise()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._ended.wait()
        self._socket.close()
        if error is None:
            self._raise()

    def wait(self) -> None:
        """Returns when the server has ended; a signal ends the wait.

        A thread that is joined counts as ended once that is interrupted, though it runs on; an event does not.
        """
        self._ended.wait()
        self._raise()

    def _serve(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        except BaseException as error:
            self._failed = error
        finally:
            self._ended.set()

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed


def check_address(host: str, port: int) -> None:
    """Raises ConfigError for an address that cannot be taken, and leaves one that can."""
    _listening(host, port).close()


def _address(host: str, port: int) -> str:
    """Where a browser finds a server; by the machine's name where it listens on all of its addresses."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError where it cannot.

    Its protocol is named: only then does asyncio send each part of an answer at once, instead of after the 40 ms in
    which the other side holds its acknowledgement of the part before.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_WAITING)
        return listening
    except OSError as reason:
        listening.close()
        why = os.strerror(reason.errno) if reason.errno and reason.errno > 0 else str(reason)  # else: of the resolver
        fix = "give another --port, or --port 0 for any that is free"
        raise ConfigError([Problem(place=f"{host}:{port}", what=f"cannot be served: {why}", fix=fix)]) from reason
