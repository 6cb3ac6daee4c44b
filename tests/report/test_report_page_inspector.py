"""The token inspector in a real browser: its numbers are the file's, its sums come out, mouse and keys reach all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contrast import FAINT
from inspected_at_hand import PIECES, pairs_file, ppo_file, rankings_file, run_at_hand, without_heading
from inspecting import NUMBERS, choose_rollout, chosen, number, opened, panel, rows_of, same, texts, value, written_to
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.medium
LENGTHS = [5, 8, 1, 30]
LABELS = ["log-prob", "reference", "kl", "value", "reward", "advantage", "return", "ratio", "clipped"]
Made = tuple[Path, Mapping[int, Path]]


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A page of a run of PPO with two rounds, and the files of these."""
    folder = tmp_path_factory.mktemp("ppo")
    run = run_at_hand(folder / "run", "ppo")
    files = {step: ppo_file(run, step, LENGTHS, seed=step) for step in (1, 10)}
    return written_to(folder, run), files


def test_every_number_of_every_token_is_that_of_the_file(chromium: Browser, ppo: Made) -> None:
    page = opened(chromium, ppo[0])
    for step, file in ppo[1].items():
        page.locator("[data-part=step]").select_option(str(step))
        for place, row in enumerate(rows_of(file)):
            choose_rollout(page, place)
            [answer] = page.evaluate(NUMBERS)
            assert len(answer) == LENGTHS[place]
            for token, numbers in enumerate(answer):
                assert len(numbers) == 9
                assert all(same(text, row[name][token]) for name, text in numbers.items()), (step, place, token)


def test_the_mouse_shows_a_token_and_a_click_keeps_it(chromium: Browser, ppo: Made) -> None:
    page = opened(chromium, ppo[0])
    choose_rollout(page, 1)
    tokens = page.locator("#inspector .token")
    assert panel(page) == "0 0"
    tokens.nth(7).hover()
    assert panel(page) == "0 7"
    stored = rows_of(ppo[1][10])[1]["advantages"]
    assert same(value(page, "advantages"), stored[7])
    page.locator("#inspector .legend").hover()
    assert panel(page) == "0 0"
    tokens.nth(7).click()
    page.locator("#inspector .legend").hover()
    assert panel(page) == "0 7"
    assert tokens.nth(7).get_attribute("aria-selected") == "true"
    page.locator("[data-part=lesson] tbody tr").nth(2).click()
    assert panel(page) == "0 2"
    page.locator("#inspector .quantities button", has_text="kl").click()
    assert page.locator("#inspector .quantities [aria-pressed=true]").text_content() == "kl 3"


def test_keys_alone_reach_every_token_rollout_step_and_quantity(chromium: Browser, ppo: Made) -> None:
    page = opened(chromium, ppo[0])
    press = page.keyboard.press
    press("ArrowRight")  # outside the inspector keys are the page's
    assert panel(page) == "0 0"
    page.locator("#inspector .token").first.focus()
    for moves in ("ArrowRight: 0 1", "End: 0 4", "ArrowRight: 0 4", "ArrowLeft: 0 3", "Home: 0 0"):
        key, at = moves.split(": ")
        press(key)
        assert panel(page) == at, key
    for _ in range(3):
        press("ArrowRight")
    press("ArrowDown")
    assert (chosen(page, "rollout"), panel(page)) == ("1", "0 3")
    press("ArrowDown")
    assert (chosen(page, "rollout"), panel(page)) == ("2", "0 0")  # it has one token
    press("ArrowUp")
    assert chosen(page, "step") == "10"
    press("[")
    assert (chosen(page, "step"), chosen(page, "rollout")) == ("1", "1")
    press("]")
    assert chosen(page, "step") == "10"
    for place, label in enumerate(LABELS):
        press(str(place + 1))
        pressed = page.locator("#inspector .quantities [aria-pressed=true]").text_content()
        assert pressed == f"{label} {place + 1}"
        assert (page.locator("[data-part=legend] b").text_content(), page.locator(":focus").count()) == (label, 1)
        assert f": {label} " in (page.locator(":focus").get_attribute("aria-label") or "")
    style, width = page.locator(":focus").evaluate(
        "(it) => [getComputedStyle(it).outlineStyle, parseFloat(getComputedStyle(it).outlineWidth)]"
    )
    assert (style, width >= 2) == ("solid", True)


def test_rollouts_come_in_the_order_that_is_asked_for(chromium: Browser, ppo: Made) -> None:
    page = opened(chromium, ppo[0])
    rows = rows_of(ppo[1][10])
    scores = [row["settled_score"] for row in rows]
    expected = {
        "lowest": sorted(range(4), key=lambda row: scores[row]),
        "highest": sorted(range(4), key=lambda row: -scores[row]),
        "longest": [3, 1, 0, 2],
        "kept": [0, 1, 2, 3],
    }
    for order, places in expected.items():
        page.locator("[data-part=order]").select_option(order)
        options = page.locator("[data-part=rollout] option")
        assert options.evaluate_all("(all) => all.map((option) => Number(option.value))") == places, order
        assert chosen(page, "rollout") == str(places[0])
        page.locator("#inspector .token").first.focus()
        page.keyboard.press("ArrowDown")
        assert chosen(page, "rollout") == str(places[1])


def test_colours_have_zero_in_the_middle_and_clipped_tokens_are_underlined(chromium: Browser, ppo: Made) -> None:
    page = opened(chromium, ppo[0])
    choose_rollout(page, 3)
    row = rows_of(ppo[1][10])[3]
    tokens = page.locator("#inspector .token")
    steps = [int(step) for step in tokens.evaluate_all("(all) => all.map((token) => token.dataset.step)")]
    assert np.sign(steps).tolist() == np.sign(row["advantages"]).tolist()
    largest = int(np.argmax(np.abs(row["advantages"])))
    assert abs(steps[largest]) == 5
    lined = tokens.evaluate_all("(all) => all.map((token) => getComputedStyle(token).textDecorationLine)")
    assert [line == "underline" for line in lined] == row["clipped"]
    page.locator("#inspector .token").first.focus()
    page.keyboard.press("8")
    steps = [int(step) for step in tokens.evaluate_all("(all) => all.map((token) => token.dataset.step)")]
    assert np.sign(steps).tolist() == np.sign(np.log(row["ratio"])).tolist()
    assert texts(page, ".ends .middle") == ["1"]
    page.get_by_label("numbers at the tokens").check()
    shown = tokens.first.evaluate("(token) => getComputedStyle(token, '::after').content")
    assert number(shown.strip('"')) == pytest.approx(row["ratio"][0], rel=5e-3)


def test_alternatives_have_their_chances_and_say_which_was_taken(chromium: Browser, ppo: Made) -> None:
    page = opened(chromium, ppo[0])
    choose_rollout(page, 1)
    row = rows_of(ppo[1][10])[1]
    for token in (0, 5):
        page.locator("#inspector .token").nth(token).click()
        for model, column in (("actor", "old"), ("reference", "reference")):
            items = page.locator(f".alternatives[data-model={model}] li")
            ids, logprobs = [*row[f"{model}_top"][token]], [*row[f"{model}_top_logprobs"][token]]
            if row["tokens"][token] not in ids:
                ids, logprobs = [*ids, row["tokens"][token]], [*logprobs, row[column][token]]
            told = items.evaluate_all("(all) => all.map((it) => [it.dataset.token, it.dataset.logprob].map(Number))")
            assert told == [[each, logprob] for each, logprob in zip(ids, logprobs, strict=True)]
            taken = page.locator(f".alternatives[data-model={model}] .was-taken")
            assert {int(it or -1) for it in taken.evaluate_all("(all) => all.map((it) => it.dataset.token)")} == {
                row["tokens"][token]
            }
            assert "taken" in (taken.first.text_content() or "")


def test_a_pair_stands_under_each_other_with_its_log_ratios(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "dpo")
    rows = rows_of(pairs_file(run, 7, [3, 6, 4, 2]))
    page = opened(chromium, written_to(tmp_path, run))
    assert page.locator("[data-part=legend] b").text_content() == "log-ratio"
    for pair in (0, 1):
        choose_rollout(page, pair)
        assert texts(page, ".response h4 b") == ["chosen", "rejected"]
        for answer, row in zip(page.evaluate(NUMBERS), rows[2 * pair : 2 * pair + 2], strict=True):
            for token, numbers in enumerate(answer):
                assert [*numbers] == ["log_ratio", "policy", "reference"]
                assert all(same(text, row[name][token]) for name, text in numbers.items())
    assert "This token’s log-ratio is " in (page.locator(".reason").text_content() or "")
    page.locator("#inspector .token").nth(3).focus()  # the last of the chosen answer
    page.keyboard.press("ArrowRight")
    assert panel(page) == "1 0"
    assert page.locator(".lesson").count() == 2


def test_a_ranking_shows_the_score_of_every_prefix_and_its_change(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "reward")
    rows = rows_of(rankings_file(run, 0, [[3, 5, 4], [2, 2]]))
    page = opened(chromium, written_to(tmp_path, run))
    choose_rollout(page, 0)
    assert texts(page, ".response h4 b") == ["rank 1", "rank 2", "not ranked"]
    for answer, row in zip(page.evaluate(NUMBERS), rows[:3], strict=True):
        assert all(same(numbers["scores"], row["scores"][token]) for token, numbers in enumerate(answer))
        changes = np.diff(np.array(row["scores"]))
        assert answer[0]["change"] == "–"
        assert [float(numbers["change"]) for numbers in answer[1:]] == pytest.approx(changes.tolist())
    page.locator("#inspector .token").nth(2).click()
    reason = page.locator(".reason").text_content() or ""
    by = rows[0]["scores"][2] - rows[0]["scores"][1]
    assert reason.startswith(f"The score {'falls' if by < 0 else 'rises'} by ")
    assert "The saved model" in reason


def test_a_file_of_the_first_version_opens_with_what_it_has(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [3])
    without_heading(path)
    page = opened(chromium, written_to(tmp_path, run))
    [answer] = page.evaluate(NUMBERS)
    row = rows_of(path)[0]
    assert [*answer[0]] == ["old", "reference", "kl", "values", "rewards", "advantages", "returns"]
    assert all(float(text) == row[name][token] for token, of in enumerate(answer) for name, text in of.items())
    assert texts(page, ".token") == [f"⟨{token}⟩" for token in row["tokens"]]
    assert "does not have the mean and the deviation" in (page.locator("[data-part=panel]").text_content() or "")


def test_texts_of_models_stay_texts(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [400])
    page = opened(chromium, written_to(tmp_path, run))
    assert page.evaluate("() => window.hacked ?? null") is None
    assert page.evaluate("() => document.querySelectorAll('img, iframe').length") == 0
    shown = page.locator("#inspector .token").all_text_contents()
    tokens = rows_of(path)[0]["tokens"]
    steering = {token for token, text in PIECES.items() if any(sign in text for sign in "\u202e\u0000\x1b")}
    assert steering <= {*tokens}
    for token, text in zip(tokens, shown, strict=True):
        assert not {*"\u202e\u2066\u0000\x1b"} & {*text}
        if PIECES[token] and token not in steering:
            assert text.replace("⏎", "") == PIECES[token]
    assert PIECES[0] in (page.locator("[data-part=prompt]").text_content() or "")


def test_ten_thousand_rollouts_make_a_page_under_ten_megabytes(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    for step in range(1, 6):
        ppo_file(run, step, [800 if row % 100 == 0 else 10 + row % 40 for row in range(2000)], seed=step)
    file = written_to(tmp_path, run, whole=True)
    assert file.stat().st_size < 10_000_000
    page = opened(chromium, file)
    assert page.locator("[data-part=step] option").count() == 5
    listed = texts(page, "[data-part=rollout] option")
    assert any("best" in line for line in listed)
    assert "of 10,000 answers that the run kept" in (page.locator("#tokens .prose").text_content() or "")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1280, "dark")])
def test_it_fits_a_phone_and_every_text_stands_out(chromium: Browser, ppo: Made, width: int, scheme: str) -> None:
    page = opened(chromium, ppo[0], viewport={"width": width, "height": 740}, color_scheme=scheme)
    choose_rollout(page, 3)
    _fits(page)
    page.locator("#inspector .token").nth(3).click()
    page.get_by_label("numbers at the tokens").check()
    page.mouse.move(2, 2)  # or a token comes under the mouse when the page scrolls
    page.locator("[data-part=panel] summary").click()
    _fits(page)


def _fits(page: Page) -> None:
    assert int(page.evaluate("() => document.documentElement.scrollWidth - innerWidth")) <= 0
    assert page.evaluate(FAINT) == []


def test_every_control_has_a_name_and_what_is_chosen_is_told(chromium: Browser, ppo: Made) -> None:
    page = opened(chromium, ppo[0])
    snapshot = page.locator("#inspector").aria_snapshot()
    nameless = re.findall(r"^\s*- (?:button|combobox|checkbox|listbox|option|region)\s*(?:\[.*\])?:?$", snapshot, re.M)
    assert nameless == [], snapshot
    assert '- listbox "Tokens of answer"' in snapshot
    page.locator("#inspector .token").nth(2).click()
    stored = rows_of(ppo[1][10])[0]
    said = page.locator("[data-part=spoken]").text_content() or ""
    assert said.startswith(texts(page, ".token")[2].replace("\n", ""))
    assert "3 of 5 tokens, advantage " in said
    assert number(said.rsplit(" ", 1)[1]) == pytest.approx(stored["advantages"][2], rel=5e-3)


def test_an_answer_of_no_tokens_is_passed_over(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "reward")
    path = rankings_file(run, 0, [[1, 3, 2]])
    table = pq.ParquetFile(path).read()
    for name in ("tokens", "scores"):
        column = table.column(name).to_pylist()
        emptied = pa.array([[], *column[1:]], table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, emptied)
    pq.write_table(table, path)
    page = opened(chromium, written_to(tmp_path, run))
    assert panel(page) == "1 0"
    page.locator("#inspector .token").first.focus()
    page.keyboard.press("ArrowLeft")
    assert panel(page) == "1 0"
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert panel(page) == "2 0"
