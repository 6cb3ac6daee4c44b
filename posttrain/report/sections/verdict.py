"""What a run came to, in a sentence or two with intervals, and how to know more."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from posttrain.measures.quantities import course, of
from posttrain.report.findings import facts_of, findings_of, summary
from posttrain.report.parts import Code, Part, Prose, Section, Warned
from posttrain.report.reading import Read
from posttrain.report.stored import Stored, is_own_judge, stored
from posttrain.report.words import is_measure, listed, number_of, share_of, short

_POLICIES = ("sft", "ppo", "dpo", "online-dpo")
_MOST = 2
_NAMED = ("accuracy", "exact_match", "macro_f1", "spearman", "token_f1")


def verdict(run: Read) -> Section:
    """How the run stands, what evaluations of it say, or else what it measured itself, and what its health is."""
    sentences = [line for line in (_state(run),) if line]
    found = _of_evaluations(run)
    sentences += found or _of_the_run(run)
    findings = findings_of(run)
    if findings:
        sentences.append(f"Health: {summary(findings)}")
    parts: list[Part] = [Prose(text=line) for line in sentences]
    parts += [Warned(finding=finding) for finding in findings if finding.state in ("act", "watch")]
    command = "" if found else how_to_measure(run)
    if command:
        parts += [
            Prose(text="Nothing more was measured of it. To measure it on prompts that it has not seen:"),
            Code(text=command),
        ]
    return Section(
        id="verdict",
        title="Verdict",
        parts=parts,
        facts={"sentences": [*sentences], "findings": facts_of(findings)},
    )


def _state(run: Read) -> str:
    """What kept a run from its end; nothing for one that is done."""
    status, last = run.record["status"], max((row["step"] for row in run.metrics), default=0)
    if status == "done":
        return ""
    error = str(run.record.get("error", "")).partition("\n")[0]
    said = {
        "running": f"The run is at step {last}, as far as it has written.",
        "stopped": f"The run stopped at step {last} without a word, as by a kill; the same command goes on.",
        "interrupted": f"The run was interrupted at step {last}; the same command goes on.",
        "failed": f"The run failed at step {last}: {error or 'no reason is known'}.",
    }
    return said[status].replace("..", ".")


# --- from evaluations -------------------------------------------------------------------------------------------------


def _of_evaluations(run: Read) -> list[str]:
    """A sentence on each of the newest evaluations that differ in whom they compare with, who judges, and on what.

    First come those by a judge that the run was not trained on.
    """
    chosen: dict[tuple[str | None, str, str], str] = {}
    newest = stored(run)[::-1]
    for each in sorted(newest, key=lambda each: is_own_judge(run, each)):
        line = _sentence(each, own=is_own_judge(run, each))
        if line and len(chosen) < _MOST:
            chosen.setdefault((each.against, each.judge, each.where), line)
    return [*chosen.values()]


def _sentence(each: Stored, *, own: bool) -> str:
    """What an evaluation says of the model; nothing where it has no number that could be said."""
    wins, gain, score = (each.estimates.get(name) for name in ("win_rate", "gain", "score"))
    by = f", judged by {each.judge}" + (", which it was trained on" if own else "") if each.judges else ""
    if is_measure(wins):
        way = "changes by" if is_measure(gain) and gain["value"] < 0 else "gains"
        more = f"; the score {way} {number_of(gain)} on the mean" if is_measure(gain) else ""
        told = _told(each)
        return f"Against {each.against} it wins {share_of(wins)} of {each.where}{by}{more}{told}."
    if is_measure(score):
        return f"Its answers score {number_of(score)} on the mean of {each.where}{by}{_told(each)}."
    named = [name for name in _NAMED if is_measure(each.measures.get(name))]
    if named:
        numbers = listed([f"{name.replace('_', ' ')} {number_of(each.measures[name])}" for name in named[:_MOST]])
        return f"On {each.where}: {numbers}."
    nll = each.measures.get("nll")
    return f"On {each.where} its loss is {short(nll)} nats per token." if isinstance(nll, int | float) else ""


def _told(each: Stored) -> str:
    """How far the policy went for it, where that was measured."""
    nats = each.measures.get("kl_per_answer")
    return f", at a KL of {short(nats)} nats per answer" if isinstance(nats, int | float) else ""


# --- from the run itself ----------------------------------------------------------------------------------------------


def _of_the_run(run: Read) -> list[str]:
    """What the run measured of itself, and of what that is no evidence."""
    if run.command == "reward" and run.card:
        return _of_card(run)
    rounds = _ways(run, ("score", "kl", "length"))
    if run.command in ("ppo", "online-dpo") and rounds:
        return [f"On its own training prompts, by the reward that it was trained on: {listed(rounds)}."]
    held = _ways(run, ("eval_loss", "eval_accuracy", "eval_macro_f1", "eval_exact_match", "eval_spearman"))
    if held:
        note = " (accuracy is of its own margin)" if run.command == "dpo" else ""
        return [f"On held-out rows: {listed(held)}{note}."]
    own = _ways(run, ("loss", "accuracy"))
    return [f"Nothing was held out; on its training rows: {listed(own)}."] if own else []


def _ways(run: Read, names: Sequence[str]) -> list[str]:
    """`score from -0.03 to 1.05`, of each metric that the run has."""
    found = ((name, course(run.metrics, of(name))) for name in names)
    return [
        f"{name.removeprefix('eval_').replace('_', ' ')} from {short(way.values[0])} to {short(way.values[-1])}"
        for name, way in found
        if way
    ]


def _of_card(run: Read) -> list[str]:
    card = (run.card or {}).get("held_out")
    if card is None:
        training = (run.card or {})["training"]
        return [f"It orders {share_of(training['accuracy'])} of the pairs that it learnt from; none were held out."]
    people = card.get("agreement", {}).get("people")
    beside = f"; two people agree on {share_of(people)}" if people and people["count"] else ""
    return [f"It orders {share_of(card['accuracy'])} of the held-out pairs as people did{beside}."]


def how_to_measure(run: Read) -> str:
    """The command that measures a run's model on more; nothing for one that is not done."""
    if run.record["status"] != "done":
        return ""
    if run.command not in _POLICIES:
        kind = "RANKED.jsonl" if run.command == "reward" else "LABELLED.jsonl"
        return shlex.join(["posttrain", "eval", str(run.path), "--data", kind])
    start = run.settings.get("model")
    judge = _judge(run)
    against = ["--against", str(start), "--judge", judge] if start and judge else []
    return shlex.join(["posttrain", "eval", str(run.path), *against, "--data", "HELD_OUT.jsonl"])


def _judge(run: Read) -> str:
    """The reward that the run was trained on, where it is one model; else a place to be filled."""
    parents = run.record.get("parents", {})
    named = parents.get("reward", {}).get("name")
    return str(named) if named else "" if run.command == "sft" else "REWARD_MODEL"
