"""`check`: everything that a run would make of a file is counted, drawn, and refused by the same rules."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console as Terminal

from posttrain.config import CheckConfig, make_config
from posttrain.console import Console, Lines
from posttrain.errors import DataError, ModelError
from posttrain.recipes.check import check
from posttrain.recipes.checked import Checked, CheckedFile


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def checked(data: object, **settings: object) -> tuple[Checked, str]:
    """What was found, and the page."""
    text = io.StringIO()
    console = Console(Lines(Terminal(file=text, width=300, soft_wrap=True)))
    return check(make_config(CheckConfig, {"data": data, **settings}), console=console), text.getvalue()


def one(data: object, **settings: object) -> tuple[CheckedFile, str]:
    found, page = checked(data, **settings)
    [file] = found.files
    assert found.trainable == file.trainable == (not found.refused)
    return file, page


def asked(question: str, answer: str = "Yes.") -> dict[str, str]:
    return {"instruction": question, "input": "", "output": answer}


def test_the_page_of_conversations(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        asked("Why?", "Because."),
        asked("Why?", "Because."),
        *(asked(f"{n}?") for n in range(50)),
        asked("Bad", ""),
    ]
    data = write(tmp_path / "train.jsonl", *rows)
    file, page = one(data, model=tiny_model, rows=1)
    assert (file.rows, file.ok, file.bad, file.duplicates, file.overlong) == (53, 51, 1, 1, 0)
    # the tokenizer knows bytes only: <s>User: Why?⏎Assistant: Because.</s>, or Q and A where long markers are dear
    assert page.splitlines()[0].startswith(
        f"train.jsonl   53 rows · {data.stat().st_size / 1000:.1f} kB · format: alpaca"
    )
    assert page.splitlines()[1] == "  ok 51   bad 1   duplicates 1   overlong (>256) 0"
    assert page.splitlines()[2].startswith("  bad  train.jsonl:53  output is empty")
    assert "row 1       Q: Why?⏎A:[ Because.</s>]" in page
    assert "end-of-turn </s> is trained (51 turns) ✓ · generation prompt is a prefix ✓" in page
    assert page.splitlines()[-1] == "verdict     ✓ sft takes this file, and ppo, online-dpo and sample its prompts"
    assert file.lengths is not None
    assert file.lengths.longest == len("Q: Why?.A: Because.s")
    short = len("Q: 7?.A: Yes.s"), len(" Yes.s")  # ten of these, forty of one byte more, and the first row
    total = 10 * short[0] + 40 * (short[0] + 1) + file.lengths.longest
    assert file.lengths.total == total
    assert file.trained_share == pytest.approx((50 * short[1] + len(" Because.s")) / total)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "train.jsonl", tmp_path / "b" / "train.jsonl", tmp_path / "more.jsonl"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        write(path, asked("Why?"))
    _, page = checked([str(path) for path in paths])
    titles = [line.split("   ")[0] for line in page.splitlines() if "format:" in line]
    assert titles == [str(paths[0]), str(paths[1]), "more.jsonl"]


def test_a_file_that_a_run_would_refuse_is_drawn_all_the_same(tmp_path: Path, tiny_model: Path) -> None:
    data = write(tmp_path / "train.jsonl", asked("Why?"), asked("Bad", ""), "not json")
    found, page = checked(data, model=tiny_model)
    assert found.refused == f"sft would refuse {data}: 2 of 3 rows cannot be used (67%)"
    assert "row 1 " in page
    assert "✗ sft would refuse this file:" in page
    kept, _ = one(data, model=tiny_model, max_bad="70%")
    assert kept.trainable


def test_what_ends_a_file_before_its_end_is_refused_with_all_rows_before_it_counted(tmp_path: Path) -> None:
    rows = "".join(json.dumps(asked(f"{n * 7919}?")) + "\n" for n in range(4000)).encode()
    data = tmp_path / "train.jsonl.gz"
    data.write_bytes(gzip.compress(rows)[:-20])
    file, page = one(data)
    [problem] = file.refusals
    assert problem.what.startswith("the gzip file is damaged after this line")
    assert problem.place == f"{data}:{file.rows}"
    assert file.records == file.rows > 3900
    assert "✗ sft would refuse this file:" in page


def test_a_folder_is_refused_for_one_of_its_files(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *(asked(f"{n}?") for n in range(250)))  # more than are looked at to tell the layout
    write(tmp_path / "b.jsonl")
    file, _ = one(tmp_path)
    assert [problem.what for problem in file.refusals] == ["the file is empty"]


def test_without_a_model_what_needs_none_is_shown(tmp_path: Path) -> None:
    file, page = one(write(tmp_path / "train.jsonl", asked("Why?", "Because.")))
    assert (file.diagnosis, file.limit, file.overlong, file.trained_share) == (None, None, None, None)
    assert file.lengths is not None
    assert (file.lengths.unit, file.lengths.total) == ("characters", len("Why?Because."))
    assert "row 1       user: Why?⏎assistant: [Because.]⏎" in page
    assert "give --model" in page


def test_rankings_show_ties_margins_annotators_and_whether_length_wins(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        {"prompt": "A?", "responses": ["yes!", "no", "eh"], "ranks": [1, 2, 2], "annotator": "x"},
        {"prompt": "B?", "responses": ["aaaa", "b", "c"], "ranks": [1, 2, None], "annotator": "y", "margin": 2},
    ]
    file, page = one(write(tmp_path / "ranked.jsonl", *rows), model=tiny_model)
    found = file.rankings
    assert found is not None
    assert (found.prompts, found.answers, found.pairs, found.ties, found.unranked) == (2, {3: 2}, 3, 1, 1)
    assert (found.margins, found.annotators, found.longer_wins) == (1, 2, 1.0)
    # a space before the answer and the end after it are two tokens more than its bytes
    assert (found.better, found.worse) == (6, pytest.approx((4 + 4 + 3) / 3))
    assert "a reward learns to like length from this" in page
    assert "rank 1      [ yes!</s>]" in page
    assert "no rank     [ c</s>]" in page
    takes = "reward and dpo take this file, and ppo, online-dpo and sample its prompts"
    assert page.splitlines()[-1] == f"verdict     ✓ {takes}"


def test_rankings_of_ties_only_are_refused(tmp_path: Path) -> None:
    file, _ = one(write(tmp_path / "ranked.jsonl", {"prompt": "A?", "responses": ["a", "b"], "ranks": [1, 1]}))
    assert [problem.what for problem in file.refusals] == ["no two answers are ranked differently in any of 1 prompt"]


def test_prompts_show_their_columns_and_the_room_for_an_answer(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"prompt": "Why?", "gold": "7"}, {"prompt": "How?", "level": 3, "gold": "8"}]
    file, page = one(write(tmp_path / "prompts.jsonl", *rows), model=tiny_model, max_length=64)
    assert file.columns == {"gold": 2, "level": 1}
    length = len("Q: Why?.A:")
    assert f"room        for answers of up to {64 - length} tokens after the longest prompt (max_length 64)" in page
    assert "kept        gold, level (1)" in page
    tight, _ = one(write(tmp_path / "prompts.jsonl", *rows), model=tiny_model, max_length=length)
    assert not tight.trainable
    assert "2 prompts leave no room for an answer" in tight.refusals[0].what


def test_text_is_recognised_and_measured(tmp_path: Path, tiny_model: Path) -> None:
    file, page = one(write(tmp_path / "text.jsonl", {"text": "Once"}, {"text": "upon a time"}), model=tiny_model)
    assert file.kind == "text"
    assert file.lengths is not None
    assert (file.lengths.longest, file.lengths.total) == (12, 5 + 12)
    assert file.trained_share == (4 + 11) / 17
    assert "row 1       O[nce</s>]" in page
    assert "texts begin with nothing · end-of-text </s> is trained ✓" in page


def test_leaks_are_found_by_prompt_whatever_the_case_and_the_kind(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", asked("Why is  it?"), asked("How?"), asked("When?"))
    held = write(tmp_path / "test.jsonl", {"prompt": "WHY is it?"}, {"prompt": "Where?"})
    file, page = one(data, eval_data=held)
    assert file.leakage is not None
    assert (file.leakage.rows, file.leakage.prompts, file.leakage.places) == (1, 2, ("train.jsonl:1",))
    assert "✗ 1 of 3 rows has a prompt that is in test.jsonl too: train.jsonl:1" in page
    clean, page = one(data, eval_data=write(tmp_path / "test.jsonl", {"prompt": "Where?"}))
    assert clean.leakage is not None
    assert clean.leakage.rows == 0
    assert "of 1 prompt of test.jsonl none is in it ✓" in page


def test_a_share_that_is_held_out_cannot_leak(tmp_path: Path) -> None:
    file, page = one(write(tmp_path / "train.jsonl", asked("Why?")), eval_data="2%")
    assert file.leakage is None
    assert page.startswith("eval_data 2%: a share is split off by prompt")


def test_a_refusal_of_the_doctor_is_one_of_the_file(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}")
    data = write(tmp_path / "train.jsonl", asked("Why?"))
    file, page = one(data, model=tiny_model, template=tmp_path / "mine.jinja", loss_on="all")
    assert [problem.what for problem in file.refusals] == [
        "end-of-turn </s> is never trained: the model would not learn to stop"
    ]
    assert "✗ end-of-turn </s> is never trained" in page


def test_rows_that_are_all_too_long_are_refused_and_some_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    data = write(tmp_path / "train.jsonl", asked("Why?"), asked("x" * 40))
    some, page = one(data, model=tiny_model, max_length=30)
    assert some.overlong == 1
    assert some.trainable
    assert "overlong (>30) 1" in page
    none, _ = one(data, model=tiny_model, max_length=5)
    assert "every row is longer than max_length 5" in none.refusals[0].what
    with pytest.raises(ModelError, match="max_length 999 is more than the model's context of 256"):
        checked(data, model=tiny_model, max_length=999)


def test_problems_are_written_in_the_form_of_a_run(tmp_path: Path) -> None:
    rows = [*(asked(f"{number}?") for number in range(9)), *(asked(f"Bad {number}", "") for number in range(7))]
    data = write(tmp_path / "train.jsonl", *rows)
    file, page = one(data, out=tmp_path / "deep" / "problems.jsonl")
    lines = [json.loads(text) for text in (tmp_path / "deep" / "problems.jsonl").read_text().splitlines()]
    assert [line["place"].rpartition(":")[2] for line in lines[:7]] == [str(number) for number in range(10, 17)]
    assert all(set(line) == {"place", "what", "fix"} for line in lines)
    assert len(lines) == 7 + len(file.refusals)
    assert page.count("train.jsonl:1") == 1  # rows with one and the same problem are one line
    assert "(6 more rows have this)" in page


def test_several_files_have_a_page_each(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", asked("Why?"))
    second = write(tmp_path / "b.jsonl", {"text": "Once"}, {"text": ""})
    found, page = checked([str(first), str(second)])
    assert [file.kind for file in found.files] == ["chat", "text"]
    assert [file.trainable for file in found.files] == [True, False]
    assert page.count("verdict") == 2
    assert found.refused.startswith(f"sft would refuse {second}")


def test_what_is_no_data_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.jsonl"):
        checked(tmp_path / "missing.jsonl")
    with pytest.raises(DataError):
        checked(write(tmp_path / "odd.jsonl", {"colour": "red"}))


def test_no_model_means_no_transformers_and_no_run_nothing_that_makes_reports(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", asked("Why?"))
    heavy = "[name for name in sys.modules if name in ('transformers', 'posttrain.report', 'posttrain.workflows')]"
    code = f"import sys, posttrain; posttrain.check({str(data)!r}, quiet=True); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_long_row_is_shown_by_its_ends(tmp_path: Path, tiny_model: Path) -> None:
    data = write(tmp_path / "text.jsonl", {"text": "a" * 100 + "b" * 1000 + "c" * 60})
    _, page = one(data, model=tiny_model, max_length=256)
    [row] = [text for text in page.splitlines() if text.startswith("row 1")]
    assert row.startswith("row 1       a[aaa")
    assert row.endswith("ccc</s>]")
    assert f"… {1160 - 120 - 60:,} tokens …" in row
