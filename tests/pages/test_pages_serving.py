"""A server while it runs: where it is, how it answers, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest
from http_at_hand import Caller
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from posttrain.errors import ConfigError
from posttrain.pages.serving import Serving


async def here(request: Request) -> Response:
    return PlainTextResponse("here")


def app() -> Starlette:
    return Starlette(routes=[Route("/", here)])


def test_it_answers_at_its_address_while_the_context_lasts() -> None:
    with Serving(app(), host="127.0.0.1", port=0) as serving:
        assert Caller(serving.address).get("/").text == "here"
    with pytest.raises(ConnectionRefusedError):
        Caller(serving.address).get("/")


def test_all_addresses_are_named_by_the_machines_name() -> None:
    with Serving(app(), host="0.0.0.0", port=0) as serving:
        assert serving.address.startswith(f"http://{socket.gethostname()}:")


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_six_parts_stands_in_brackets() -> None:
    try:
        with Serving(app(), host="::1", port=0) as serving:
            assert serving.address.startswith("http://[::1]:")
    except ConfigError:
        pytest.skip("needs IPv6 on the loopback")


def test_a_port_that_is_taken_is_told_and_so_is_a_name_that_is_none() -> None:
    with Serving(app(), host="127.0.0.1", port=0) as serving:
        port = int(serving.address.rsplit(":", 1)[1])
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}  cannot be served: Address already in use"):
            Serving(app(), host="127.0.0.1", port=port)
    with pytest.raises(ConfigError, match=r"nowhere\.invalid:0  cannot be served: "):
        Serving(app(), host="nowhere.invalid", port=0)


def test_no_part_of_an_answer_waits_for_an_acknowledgement_of_the_one_before() -> None:
    # The cause of answers that take 40 ms: asyncio switches the waiting off for sockets whose protocol is named.
    with Serving(app(), host="127.0.0.1", port=0) as serving:
        assert serving._socket.proto == socket.IPPROTO_TCP


def test_a_signal_ends_the_wait_and_the_server_ends_after_it() -> None:
    with Serving(app(), host="127.0.0.1", port=0) as serving:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            serving.wait()
        assert Caller(serving.address).get("/").text == "here"  # it is the context that ends it
    assert serving._ended.is_set()
