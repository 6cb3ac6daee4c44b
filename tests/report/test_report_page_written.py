"""What the inspector writes out in a real browser: sums that come to the stored numbers, and the notes' table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inspected_at_hand import BETA, ppo_file, run_at_hand
from inspecting import WRITTEN, choose_rollout, number, opened, rows_of, written_to
from playwright.sync_api import Browser

from posttrain.run.inspect import Heading, heading_of, lists, table_of, write

pytestmark = pytest.mark.medium
LENGTHS = [3, 4, 1, 14]  # of the last one some terms are folded away
VARIANTS: list[dict[str, Any]] = [
    {},
    {"whiten": False},
    {"form": "spread", "estimator": "k3"},
    {"form": "sequence", "kl_in": "reward"},
    {"kl_in": "loss"},
    {"baseline": "none"},
    {"baseline": "rloo", "group": 2},
    {"baseline": "group", "group": 4, "whiten": False},
]


def test_rewards_and_advantages_written_out_come_to_what_is_stored(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    files = [ppo_file(run, step, LENGTHS, seed=step, **rules) for step, rules in enumerate(VARIANTS, 1)]
    page = opened(chromium, written_to(tmp_path, run))
    for step, file in enumerate(files, 1):
        page.locator("[data-part=step]").select_option(str(step))
        settings = _settings(file)
        charged = page.locator(".lesson caption").text_content() or ""
        assert ("−β times its KL by k3" in charged) == (settings.get("estimator") == "k3")
        for place, row in enumerate(rows_of(file)):
            choose_rollout(page, place)
            for token, told in enumerate(page.evaluate(WRITTEN)):
                _comes_out(told, row, token, settings)


def _settings(file: Path) -> dict[str, Any]:
    return json.loads(pq.read_schema(file).metadata[b"posttrain"])["settings"]


def _comes_out(told: dict[str, Any], row: dict[str, Any], token: int, settings: dict[str, Any]) -> None:
    stored = row["advantages"][token]
    raw = number(told["raw"])
    if told["parts"]:
        assert len(told["parts"]) == len(row["tokens"]) - token
        assert sum(told["parts"]) == pytest.approx(raw, abs=1e-7)
    assert (raw - settings["mean"]) / settings["deviation"] == pytest.approx(stored, abs=3e-6)
    if settings["whiten"]:
        assert number(told["whitened"]) == pytest.approx(stored, abs=3e-6)
    assert told["fits"] == "true"
    assert "float32 rounding" in told["said"] or "to the last digit" in told["said"]
    assert number(told["total"]) == pytest.approx(row["rewards"][token], abs=1e-6)
    sign = "negative" if stored < 0 else "positive" if stored > 0 else "zero"
    assert told["reason"].startswith(f"This token’s advantage is {sign} (")
    assert " because " in told["reason"] or sign == "zero"
    if settings["whiten"] and abs(raw) > 1e-4 and raw * stored < 0:
        assert "efore whitening" in told["reason"]


def test_a_sign_that_came_of_a_mean_which_the_file_lacks_is_put_down_to_it(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [30])
    table, numbers = pq.ParquetFile(path).read(), _settings(path)
    metadata = table.schema.metadata[b"posttrain"].replace(b'"mean": ', b'"unknown": ')
    pq.write_table(table.replace_schema_metadata({b"posttrain": metadata}), path)
    told = opened(chromium, written_to(tmp_path, run)).evaluate(WRITTEN)
    stored = table.column("advantages").to_pylist()[0]
    turned = [place for place, one in enumerate(stored) if one * (one * numbers["deviation"] + numbers["mean"]) < 0]
    assert turned
    assert all("which the file does not have" in told[place]["reason"] for place in turned)


def test_an_advantage_that_the_settings_do_not_explain_is_said_to_be_so(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [4])
    table = pq.ParquetFile(path).read()
    metadata = table.schema.metadata[b"posttrain"].replace(b'"lam": 0.95', b'"lam": 0.5')
    pq.write_table(table.replace_schema_metadata({b"posttrain": metadata}), path)
    page = opened(chromium, written_to(tmp_path, run))
    told = page.evaluate(WRITTEN)
    assert told[0]["fits"] == "false"
    assert "more than rounding" in told[0]["said"]
    assert told[3]["fits"] == "true"  # the last has no later terms


def test_the_notes_kl_table_stands_there_with_the_score_on_the_last_token(chromium: Browser, tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [4], whiten=False)
    _as_in_the_notes(path)
    page = opened(chromium, written_to(tmp_path, run))
    rows = [row.split("\t") for row in page.locator(".lesson tbody tr").all_inner_texts()]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[1] for row in cells] == ["you", "very", "much", "<eos>"]
    assert [row[2:4] for row in cells] == [["75 %", "40 %"], ["60 %", "35 %"], ["85 %", "70 %"], ["92 %", "90 %"]]
    assert [row[6] for row in cells] == ["0.629", "0.539", "0.194", "0.022"]
    assert [row[7] for row in cells] == ["−0.0629", "−0.0539", "−0.0194", "2"]
    assert page.locator(".lesson tfoot tr").inner_text().split("\t")[-2:] == ["1.38", "1.86"]
    assert "β = 0.1, and the score of 2 on the last token" in (page.locator(".lesson caption").text_content() or "")
    page.locator("#inspector .token").last.click()
    lines = page.locator("[data-part=panel] .sum").first.inner_text()
    assert "score, at the last token" in lines


def _as_in_the_notes(path: Path) -> None:
    actor, reference = (np.log([0.75, 0.60, 0.85, 0.92]).astype("f4"), np.log([0.40, 0.35, 0.70, 0.90]).astype("f4"))
    kl = actor - reference
    rewards = -np.float32(BETA) * kl + np.float32([0, 0, 0, 2])
    table, heading = pq.ParquetFile(path).read(), heading_of(path)
    assert heading is not None
    columns = {name: table.column(name).combine_chunks() for name in table.column_names if "_top" not in name}
    columns |= {name: lists(values, [4]) for name, values in {
        "tokens": np.int32([0, 1, 2, 3]), "old": actor, "reference": reference, "kl": kl, "rewards": rewards
    }.items()}  # fmt: skip
    columns |= {"settled_score": pa.array([2.0]), "prompt_tokens": pa.array([[4, 5]], pa.list_(pa.int32()))}
    pieces = {0: " you", 1: " very", 2: " much", 3: "<eos>", 4: "i", 5: " like"}
    settings = heading.settings
    write(path, table_of(Heading(method="ppo", step=1, pieces=pieces, settings=settings), columns))
