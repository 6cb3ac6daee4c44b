"""The report of a run that goes on: who may ask, what is answered, and that a page follows without losing the place."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from browsing import eventually
from http_at_hand import Caller
from inspected_at_hand import pairs_file, ppo_file, run_at_hand
from inspecting import texts
from playwright.sync_api import Browser

from posttrain.cli import main
from posttrain.config import PPOConfig, make_config
from posttrain.pages.serving import Serving
from posttrain.report.live import Options, application
from posttrain.run import RunWriter


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of PPO that goes on, with a round of two hundred answers."""
    run = run_at_hand(tmp_path / "run", "ppo", done=False)
    ppo_file(run, 1, [1 + row % 7 for row in range(200)], group=2, baseline="rloo")
    return run


@pytest.fixture
def served(run: Path) -> Iterator[Serving]:
    with Serving(application(run, Options()), host="127.0.0.1", port=0) as serving:
        yield serving


def unpacked(array: list[str]) -> Any:
    return np.frombuffer(base64.b64decode(array[1]), dtype=array[0])


def test_every_rollout_of_every_file_is_there_as_it_is_stored(run: Path, served: Serving) -> None:
    browser = Caller(served.address)
    listed = browser.get("/inspect/1").json["rollouts"]
    rows = pq.ParquetFile(run / "run" / "inspect" / "step-000001.parquet").read().to_pylist()
    assert [each["row"] for each in listed] == list(range(200))
    assert [each["score"] for each in listed] == [row["settled_score"] for row in rows]
    for place in (0, 131, 199):
        told = browser.get(f"/inspect/1/{place}").json
        [answer] = told["rollout"]["answers"]
        assert unpacked(answer["tokens"]).tolist() == rows[place]["tokens"]
        assert unpacked(answer["columns"]["advantages"]).tolist() == rows[place]["advantages"]
        assert {str(token) for token in rows[place]["tokens"]} <= {*told["pieces"]}
        assert (told["settings"]["baseline"], len(told["rollout"]["group"]["totals"])) == ("rloo", 2)


def test_half_a_character_of_a_sample_ends_no_page(run: Path, served: Serving) -> None:
    row = {"step": 1, "prompt": "half of \ud83d", "answer": "\udcff", "stopped": True}
    (run / "run" / "samples.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    answer = Caller(served.address).get("/")
    assert answer.status == 200
    assert b"half of \\ud83d" in answer.body


def test_what_there_is_not_is_said(served: Serving) -> None:
    browser = Caller(served.address)
    assert (browser.get("/inspect/1/200").status, browser.get("/inspect/1/200").json) == (
        404,
        {"error": "step 1 has 200 rollouts"},
    )
    assert browser.get("/inspect/2").json == {"error": "the run kept no rollouts of step 2"}
    for path in ("/nowhere", "/inspect/one", "/inspect/-1", "/run/run.json", "/../run.json"):
        assert browser.get(path).status == 404, path


def test_a_strangers_name_is_refused_and_nothing_is_taken(served: Serving) -> None:
    browser = Caller(served.address)
    for path in ("/", "/state", "/plotly.min.js", "/inspect/1", "/inspect/1/0"):
        answer = browser.ask("GET", path, headers={"Host": "evil.example"})
        assert (answer.status, b"rollout" in answer.body) == (403, False), path
        assert browser.get(path).status == 200, path
        assert browser.ask("POST", path, b"{}").status in (403, 405)


def test_answers_have_the_headers_that_keep_texts_inert(served: Serving) -> None:
    browser = Caller(served.address)
    page = browser.get("/")
    assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page.text)
    assert "default-src &#39;none&#39;" in policy or "default-src 'none'" in policy
    assert "connect-src" in policy
    for answer in (page, browser.get("/state"), browser.get("/nowhere")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in browser.get("/state").headers["content-security-policy"]


def test_other_machines_need_the_token(run: Path) -> None:
    with pytest.raises(ValueError, match="it needs a token"):
        application(run, Options(host="0.0.0.0"))
    with Serving(application(run, Options(host="0.0.0.0", token="a" * 24)), host="127.0.0.1", port=0) as serving:
        browser = Caller(serving.address)
        for path in ("/", "/state", "/plotly.min.js", "/inspect/1", "/inspect/1/0", "/?token=wrong"):
            assert browser.get(path).status == 403, path
        assert browser.get(f"/?token={'a' * 24}").status == 200
        assert browser.get("/inspect/1").status == 200


def test_a_folder_that_cannot_be_read_now_is_said_and_a_readable_one_is_shown_again(run: Path, served: Serving) -> None:
    browser = Caller(served.address)
    record = run / "run" / "run.json"
    whole = record.read_bytes()
    record.write_bytes(b"{")
    answer = browser.get("/")
    assert (answer.status, "run.json" in answer.json["error"]) == (503, True)
    record.write_bytes(whole)
    assert browser.get("/").status == 200


@pytest.mark.medium
def test_the_command_serves_a_run_until_ctrl_c(run: Path) -> None:
    command = [sys.executable, "-m", "posttrain", "report", str(run), "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = re.fullmatch(r"report at (http://127\.0\.0\.1:\d+)/\n", said)
        assert address is not None, said
        assert Caller(address[1]).get("/inspect/1/7").status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--serve", "--out", "a.html"], "serves the page of one run"),
        (["--serve", "--host", "0.0.0.0", "--token", "short"], "the token has 5 characters"),
        (["--serve", "--host", "nowhere.invalid"], "cannot be served"),
    ],
)
def test_what_cannot_be_served_is_said(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.medium
def test_a_page_follows_its_run_and_leaves_the_reader_where_they_are(chromium: Browser, tmp_path: Path) -> None:
    config = make_config(PPOConfig, {"model": "base", "reward": "rm", "prompts": "p", "out": tmp_path / "run"})
    with RunWriter.create(tmp_path / "run", config) as writer:
        writer.metrics(1, {"loss": 1.0, "kl": 0.5, "score": 0.1})
        ppo_file(writer.path, 1, [3, 9, 40])
        with Serving(application(writer.path, Options()), host="127.0.0.1", port=0) as serving:
            page = chromium.new_context(reduced_motion="reduce").new_page()
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(error.message))
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
            page.goto(serving.address)
            page.wait_for_selector("#inspector .token")
            page.locator("[data-part=rollout]").select_option("2")
            page.locator("#inspector .token").nth(30).click()
            page.mouse.move(2, 2)
            page.evaluate("() => { window.same = document.querySelector('#inspector .token'); scrollBy(0, 40); }")
            place = page.evaluate("() => scrollY")
            eventually(lambda: page.locator(".following").text_content(), "Follows the run.")
            for step in (2, 3, 4):
                writer.metrics(step, {"loss": 1 / step, "kl": 0.5 * step, "score": 0.1 * step})
            ppo_file(writer.path, 4, [5])
            eventually(lambda: texts(page, "[data-part=step] option"), ["round 1", "round 4"])
            assert page.locator("[data-part=panel]").get_attribute("data-at") == "0 30"
            assert page.locator("[data-part=step]").input_value() == "1"
            assert page.evaluate("() => window.same.isConnected")
            assert page.evaluate("() => scrollY") == place
            drawn = "() => document.querySelector('[data-figure]')?.data?.[0]?.x?.length ?? 0"
            page.locator("[data-figure]").first.scroll_into_view_if_needed()
            eventually(lambda: page.evaluate(drawn), 4)
            writer.metrics(5, {"loss": 0.2, "kl": 2.5, "score": 0.5})
            eventually(lambda: page.evaluate(drawn), 5)
            page.locator("[data-part=step]").select_option("4")
            page.wait_for_function("() => document.querySelectorAll('#inspector .token').length === 5")
            assert complaints == []
        eventually(
            lambda: page.locator(".following").text_content(),
            "Does not follow the run now: the server does not answer.",
        )


@pytest.mark.medium
def test_of_hundreds_of_rollouts_the_list_offers_those_around_and_the_way_to_all(
    chromium: Browser, tmp_path: Path
) -> None:
    run = run_at_hand(tmp_path / "run", "ppo", done=False)
    ppo_file(run, 1, [1 + row % 3 for row in range(700)])
    with Serving(application(run, Options()), host="127.0.0.1", port=0) as serving:
        page = chromium.new_context().new_page()
        page.goto(serving.address)
        page.wait_for_selector("#inspector .token")
        options = page.locator("[data-part=rollout] option")
        assert (options.count(), options.last.text_content()) == (152, "… 549 rollouts after")
        for beyond in ("151", "302"):
            page.locator("[data-part=rollout]").select_option(beyond)
            page.wait_for_function(
                "(row) => document.querySelector('[data-part=rollout] option:checked').value === row"
                " && !document.querySelector('#inspector[aria-busy]')",
                arg=beyond,
            )
        assert options.first.text_content() == "… 152 rollouts before"
        assert (options.count(), options.last.text_content()) == (303, "… 247 rollouts after")


@pytest.mark.medium
def test_pairs_that_come_while_a_page_is_open_are_shown(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "dpo", done=False)
    with Serving(application(run, Options()), host="127.0.0.1", port=0) as serving:
        page = chromium.new_context().new_page()
        page.goto(serving.address)
        eventually(lambda: page.locator(".following").text_content(), "Follows the run.")
        assert page.locator("#inspector").count() == 0
        pairs_file(run, 0, [2, 3])
        page.wait_for_selector("#inspector .token", timeout=15_000)
        assert texts(page, ".response h4 b") == ["chosen", "rejected"]
