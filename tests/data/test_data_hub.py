"""Data sets of the hub, through the real `datasets`, against a small hub of our own on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from posttrain.data.hub import is_hub_id
from posttrain.data.readers import open_data
from posttrain.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def rows(split: str, count: int) -> bytes:
    return "".join(json.dumps({"question": f"q{n}", "answer": f"{split} {n}"}) + "\n" for n in range(count)).encode()


def card(**subsets: tuple[str, ...]) -> bytes:
    """A README whose head names the files of each subset, one for each split."""
    configs = [
        {"config_name": name, "data_files": [{"split": split, "path": f"{split}.jsonl"} for split in splits]}
        for name, splits in subsets.items()
    ]
    return f"---\nconfigs: {json.dumps(configs)}\n---\n".encode()


FILES = {f"{split}.jsonl": rows(split, count) for split, count in (("train", 3), ("test", 2), ("validation", 1))}
REPOSITORIES: dict[str, dict[str, bytes]] = {
    "owner/plain": {"README.md": card(default=("train", "test")), **FILES},
    "owner/subsets": {"README.md": card(easy=("train",), hard=("test",)), **FILES},
    "owner/untrained": {"README.md": card(default=("test", "validation")), **FILES},
    "owner/program": {"README.md": b"", "program.py": b"raise SystemExit('this must not run')\n"},
    "owner/broken": {"README.md": card(default=("train",)), "train.jsonl": b"}{"},
}


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that reading a data set needs."""

    protocol_version = "HTTP/1.1"
    gated: ClassVar[set[str]] = {"owner/gated"}

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        of_api = parts[0] == "api"
        repository = "/".join(parts[2:4] if of_api else parts[1:3])
        files = REPOSITORIES.get(repository)
        if repository in self.gated:
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif files is None:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif of_api:
            self.answer(200, self.listing(repository, files, parts[4:]), {})
        else:
            name = "/".join(parts[5:])
            found = name in files
            tag = {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'} if found else {"X-Error-Code": "EntryNotFound"}
            self.answer(200 if found else 404, files.get(name, b""), {"X-Repo-Commit": COMMIT, **tag})

    do_HEAD = do_GET  # noqa: N815

    def listing(self, repository: str, files: dict[str, bytes], rest: list[str]) -> bytes:
        if rest and rest[0] == "tree":
            entries = [{"type": "file", "path": f, "size": len(c), "oid": "0" * 40} for f, c in files.items()]
            return json.dumps([] if rest[2:] else entries).encode()
        siblings = [{"rfilename": name} for name in files]
        about: dict[str, Any] = {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        return json.dumps({**about, "downloads": 0, "likes": 0}).encode()

    def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


SCRIPT = """
import json, sys
from posttrain.data.readers import open_data
from posttrain.errors import DataError
for name, path, settings in json.loads(sys.stdin.read()):
    try:
        reading = open_data(path, "chat", **settings)
        ids = [record.id for record in reading]
        said = [reading.identity, reading.format, reading.size, ids, reading.tally.rows]
    except DataError as error:
        said = str(error)
    print(json.dumps([name, said]))
"""
CASES: list[tuple[str, str, dict[str, str]]] = [
    ("plain", "owner/plain", {}),
    ("split", "owner/plain", {"split": "test"}),
    ("cut", "owner/plain", {"split": "train[:2]"}),
    ("subset", "owner/subsets", {"subset": "hard", "split": "test"}),
    ("the only split", "owner/subsets", {"subset": "hard"}),
    ("misspelt split", "owner/plain", {"split": "tset"}),
    ("no split named train", "owner/untrained", {}),
    ("several subsets", "owner/subsets", {}),
    ("misspelt subset", "owner/subsets", {"subset": "esay"}),
    ("nothing there", "owner/nothing", {}),
    ("gated", "owner/gated", {}),
    ("program", "owner/program", {}),
    ("broken", "owner/broken", {}),
]


def results(home: Path, cases: list[tuple[str, str, dict[str, str]]], **environment: str) -> dict[str, Any]:
    """What reading each case says, in a process whose hub and cache are ours."""
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(cases),
        env={**os.environ, "HF_HOME": str(home), "HF_TOKEN": "", **quiet, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Retrying" not in done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def online(hub: str, home: Path) -> dict[str, Any]:
    pytest.importorskip("datasets", reason="needs the extra `hub`")
    return results(home, CASES, HF_ENDPOINT=hub)


def whole(identity: str, place: str, count: int) -> list[Any]:
    """What is said of a reading of `count` rows."""
    return [identity, "question/answer → chat", None, [f"{place}:{n}" for n in range(1, count + 1)], count]


READ = {
    "plain": whole(f"owner/plain@{COMMIT}/default:train", "plain:train", 3),
    "split": whole(f"owner/plain@{COMMIT}/default:test", "plain:test", 2),
    "cut": whole(f"owner/plain@{COMMIT}/default:train[:2]", "plain:train[:2]", 2),
    "subset": whole(f"owner/subsets@{COMMIT}/hard:test", "subsets:test", 2),
}
SAID = {
    "misspelt split": "owner/plain  the data set has no split 'tset'; there are train, test\n"
    "  fix: choose one: give '{path: owner/plain, split: test}' in its place",
    "no split named train": "owner/untrained  the data set has no split named train, but test, validation\n"
    "  fix: choose one: give '{path: owner/untrained, split: test}' in its place",
    "several subsets": "owner/subsets  the data set has 2 subsets: easy, hard\n"
    "  fix: choose one: give '{path: owner/subsets, subset: easy}' in its place",
    "misspelt subset": "owner/subsets  the data set has no subset 'esay'; there are easy, hard\n"
    "  fix: choose one: give '{path: owner/subsets, subset: easy}' in its place",
    "nothing there": "owner/nothing  there is no such file or folder, and the hub has no public data set of this name\n"
    "  fix: check the spelling; for a private one: hf auth login",
    "gated": "owner/gated  the data set asks for consent\n"
    "  fix: agree on huggingface.co/datasets/owner/gated, then: hf auth login",
    "program": "owner/program  the data set comes as a program, which is not run\n"
    "  fix: look for the same data as Parquet, or save its rows as .jsonl",
}


@pytest.mark.medium
@pytest.mark.parametrize("case", READ)
def test_a_split_of_a_data_set_is_read(case: str, online: dict[str, Any]) -> None:
    assert online[case] == READ[case]


@pytest.mark.medium
def test_the_only_split_needs_no_name(online: dict[str, Any]) -> None:
    assert online["the only split"] == READ["subset"]


@pytest.mark.medium
@pytest.mark.parametrize("case", SAID)
def test_what_has_to_be_chosen_or_mended_is_said(case: str, online: dict[str, Any]) -> None:
    assert online[case] == SAID[case]


@pytest.mark.medium
def test_a_data_set_that_cannot_be_parsed_is_said_to_be_so(online: dict[str, Any]) -> None:
    assert online["broken"].startswith("owner/broken  the data set cannot be loaded: ")


@pytest.mark.medium
def test_without_a_network_the_copy_in_the_cache_is_the_same_data(online: dict[str, Any], home: Path) -> None:
    cases = [("plain", "owner/plain", {}), ("unknown", "owner/unknown", dict[str, str]())]
    offline = results(home, cases, HF_HUB_OFFLINE="1")
    assert offline["plain"] == online["plain"]
    assert offline["unknown"] == (
        "owner/unknown  there is no such file or folder, and the hub cannot be reached to look for a data set of this "
        "name\n  fix: check the path or the network; without a network give a file"
    )


@pytest.mark.medium
def test_a_hub_that_does_not_answer_is_as_no_network_and_is_asked_once(online: dict[str, Any], home: Path) -> None:
    cases = [("plain", "owner/plain", {}), ("unknown", "owner/unknown", dict[str, str]())]
    refused = results(home, cases, HF_ENDPOINT="http://127.0.0.1:1")
    assert refused["plain"] == online["plain"]
    assert refused["unknown"].startswith(
        "owner/unknown  there is no such file or folder, and the hub cannot be reached"
    )


def test_a_name_is_a_data_set_only_where_no_path_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert is_hub_id("HuggingFaceH4/ultrachat_200k")
    for path in ("data/train", "owner/train.jsonl", "owner/rows.json.gz", "./owner/name", "train.jsonl", "a/b/c"):
        assert not is_hub_id(path)


def test_a_missing_library_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError) as caught:
        open_data("owner/name", "chat")
    assert str(caught.value) == (
        "owner/name  there is no such file or folder, and data sets of the hub need the library `datasets`\n"
        "  fix: pip install 'posttrain[hub]', or give a path"
    )


def test_a_file_has_no_split(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="a file has no split; only data sets of the hub, named owner/name, have one"):
        open_data(file, "text", split="test")
