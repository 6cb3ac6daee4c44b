"""What keeps strangers out, and what keeps texts of strangers from doing anything."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from http_at_hand import Caller, Serve, served
from rankings_at_hand import item, store

from posttrain.data import feedback_db
from posttrain.feedback import people, server
from posttrain.feedback.kept import mark_of
from posttrain.feedback.server import Options, application
from posttrain.pages import safety
from posttrain.pages.safety import LARGEST_BODY, csrf_of, is_local, same_secret

TOKEN = "a-token-that-was-printed"
POSTS = ("/api/events", "/api/undo", "/api/renew", "/leave")


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield partial(served, stack)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store(tmp_path / "feedback.db", item("a"), item("b"))


@pytest.fixture
def ann(serve: Serve, path: Path) -> Caller:
    browser = serve(path)()
    browser.enter("ann")
    return browser


def test_every_answer_has_the_headers_that_keep_texts_inert(ann: Caller) -> None:
    asked = ["/", "/statistics", "/api/next", "/nowhere", "/a/wrong"]
    for answer in [*map(ann.get, asked), ann.post("/api/events", {}), ann.ask("POST", "/api/events", b"{}")]:
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(
            policy.split("; ")
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites(serve: Serve, path: Path) -> None:
    answer = serve(path)().get("/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie


@pytest.mark.parametrize("path_asked", POSTS)
def test_what_changes_something_needs_the_token_of_the_page(ann: Caller, path_asked: str) -> None:
    for token in ("", "0" * 64, csrf_of("another cookie")):
        answer = ann.post(path_asked, {"item": "a", "key": "k"}, **{"X-CSRF-Token": token})
        assert answer.status == 403
        assert "token of the page" in answer.json["error"]


def test_entering_needs_the_token_of_the_form(serve: Serve, path: Path) -> None:
    browser = serve(path)()
    browser.open()
    for form in (b"name=ann", b"name=ann&csrf=" + b"0" * 64):
        assert browser.ask("POST", "/enter", form).status == 403
    stranger = serve(path)()  # no cookie, so that no token is theirs
    assert stranger.ask("POST", "/enter", b"name=ann&csrf=" + csrf_of("").encode()).status == 403


@pytest.mark.parametrize("path_asked", [*POSTS, "/enter"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_another_site_sends_is_refused(ann: Caller, path_asked: str, headers: dict[str, str]) -> None:
    answer = ann.ask("POST", path_asked, b"{}", {"X-CSRF-Token": ann.csrf, **headers})
    assert (answer.status, answer.json) == (403, {"error": "another site sent this"})


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "["])
def test_on_this_machine_a_strangers_name_is_not_answered(ann: Caller, host: str) -> None:
    for page in ("/", "/api/next", "/static/page.js"):
        answer = ann.ask("GET", page, headers={"Host": host})
        assert answer.status in (400, 403)  # 400: the HTTP library itself refuses what is no name
        assert b"item" not in answer.body


@pytest.mark.parametrize("host", ["localhost", "localhost:8712", "127.0.0.1:1", "[::1]:8712"])
def test_names_of_this_machine_are_answered(ann: Caller, host: str) -> None:
    assert ann.ask("GET", "/api/next", headers={"Host": host}).status == 200


def test_too_large_a_body_is_refused_before_it_is_read(ann: Caller) -> None:
    large = json.dumps({"item": "a", "kind": "note", "key": "k", "text": "x" * LARGEST_BODY}).encode()
    answer = ann.ask("POST", "/api/events", large, {"X-CSRF-Token": ann.csrf})
    assert answer.status == 413
    with socket.create_connection(tuple_of(ann.host)) as raw:  # told to be large, and nothing of it sent
        raw.sendall(head(ann, "/api/events", "Content-Length: 999999999"))
        assert b" 413 " in raw.recv(100)
    with socket.create_connection(tuple_of(ann.host)) as raw:  # in pieces without a length
        raw.sendall(head(ann, "/api/events", "Transfer-Encoding: chunked"))
        for _ in range(10):
            raw.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        raw.sendall(b"0\r\n\r\n")
        assert b" 413 " in raw.recv(100)


def tuple_of(host: str) -> tuple[str, int]:
    split = urlsplit(f"//{host}")
    return str(split.hostname), int(split.port or 80)


def head(browser: Caller, path: str, line: str) -> bytes:
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    lines = [f"POST {path} HTTP/1.1", f"Host: {browser.host}", f"Cookie: {cookies}", f"X-CSRF-Token: {browser.csrf}"]
    return ("\r\n".join([*lines, line]) + "\r\n\r\n").encode()


# --- other machines ---------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(serve: Serve, path: Path) -> Callable[[], Caller]:
    """Callers at a server that asks for a token, as one does that other machines reach."""
    return serve(path, host="0.0.0.0", token=TOKEN)


ALL_PATHS = (
    "/",
    "/statistics",
    "/adjudicate",
    "/api/next",
    "/api/item/a",
    "/api/statistics",
    "/api/disputed",
    "/api/guidelines",
)


def test_an_address_for_others_needs_a_token(path: Path) -> None:
    with pytest.raises(ValueError, match="it needs a token"):
        application(path, Options(host="0.0.0.0"))
    assert is_local("127.0.0.1")
    assert is_local("localhost")
    assert is_local("127.8.8.8")
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.5", "example.org", "127.example.org")))


def test_without_the_token_nothing_is_answered(guarded: Callable[[], Caller]) -> None:
    browser = guarded()
    for page in ALL_PATHS:
        assert browser.get(page).status == 403, page
    browser.cookies = {"posttrain": "x"}
    for page in POSTS:
        assert browser.post(page, {"item": "a", "key": "k", "kind": "skip"}).status == 403, page
    assert browser.ask("POST", "/enter", b"name=ann").status == 403
    assert browser.get("/?token=wrong").status == 403
    assert browser.get("/").status == 403


def test_who_makes_a_cookie_of_their_own_does_not_enter_without_the_token(
    guarded: Callable[[], Caller], path: Path
) -> None:
    with closing(feedback_db.connect(path)) as connection, connection:
        name = f"posttrain-{mark_of(connection)}"
    stranger = guarded()
    stranger.cookies = {name: "self-made"}
    answer = stranger.ask("POST", "/enter", b"name=ann&csrf=" + csrf_of("self-made").encode())
    assert answer.status == 403
    assert stranger.cookies == {name: "self-made"}


def test_with_the_token_one_enters_and_it_stays(guarded: Callable[[], Caller]) -> None:
    browser = guarded()
    answer = browser.get(f"/?token={TOKEN}")
    assert answer.status == 200
    assert TOKEN not in answer.text
    assert browser.enter("ann").status == 303
    assert browser.get("/api/next").status == 200


def test_a_personal_link_is_as_good_as_the_token_and_a_mere_session_is_not(
    guarded: Callable[[], Caller], path: Path
) -> None:
    with closing(feedback_db.connect(path)) as connection, connection:
        link = people.new_link(connection, "ann")
        by_name = people.enter_by_name(connection, "ben")
    ann, ben = guarded(), guarded()
    assert ann.get(f"/a/{link}").status == 200
    assert ann.get("/api/next").status == 200
    [name] = [name for name in ann.cookies if "token" not in name]
    ben.cookies[name] = by_name
    assert ben.get("/api/next").status == 403


# --- what is not told -------------------------------------------------------------------------------------------


def test_what_nobody_foresaw_is_told_without_secrets_and_without_a_traceback(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: object) -> None:
        raise RuntimeError("odd")

    told: list[str] = []
    monkeypatch.setattr(people, "enter_by_link", broken)
    browser = serve(path, tell=told.append)()
    answer = browser.get("/a/this-is-a-secret")
    assert (answer.status, answer.json) == (500, {"error": "the server failed; what was sent may be sent again"})
    assert told == ["GET /a…  failed: RuntimeError: odd"]
    out, error = capfd.readouterr()
    assert "secret" not in out + error
    assert "Traceback" not in out + error


def test_a_run_of_the_server_prints_nothing_of_requests(
    serve: Serve, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    browser = serve(path, token=TOKEN, host="0.0.0.0")()
    browser.get(f"/?token={TOKEN}")
    browser.enter("ann")
    assert capfd.readouterr() == ("", "")


def test_secrets_are_compared_as_a_whole() -> None:
    assert same_secret("abc", "abc")
    assert not any(same_secret("abc", other) for other in ("", "ab", "abcd", "abd", "ABC"))
    assert csrf_of("one") != csrf_of("two")
    assert csrf_of("one") != "one"


def test_names_are_escaped_in_pages(serve: Serve, path: Path) -> None:
    browser = serve(path)()
    browser.enter('<script>alert("x")</script>')
    assert "<script>alert" not in browser.open().text
    assert server.HERE.name == "feedback"
    assert safety.HEADERS["content-security-policy"]


def test_an_origin_of_another_scheme_is_another_site(serve: Serve, path: Path) -> None:
    ann = serve(path)()
    ann.enter("ann")
    assert ann.post("/api/undo", {"key": "k", "undoes": None}, Origin=f"https://{ann.host}").status == 403
    assert ann.post("/api/undo", {"key": "k", "undoes": None}).status == 409


def test_the_files_of_the_pages_need_the_token_or_a_personal_link_too(serve: Serve, path: Path) -> None:
    with closing(feedback_db.connect(path)) as connection, connection:
        link = people.new_link(connection, "ann")
    browser = serve(path, token=TOKEN)
    stranger, guest, ann = browser(), browser(), browser()
    assert stranger.get("/static/page.js").status == 403
    guest.get(f"/?token={TOKEN}")
    assert guest.get("/static/page.js").status == 200
    ann.get(f"/a/{link}")
    assert ann.get("/static/page.js").status == 200
