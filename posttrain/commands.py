"""The commands: what each is for, and what it understands besides its settings."""

from __future__ import annotations

from dataclasses import dataclass

_TRAINING = ("sft", "classify", "reward", "ppo", "dpo", "online-dpo")
# In the order in which they are used; what has settings of its own stands in posttrain.config.CONFIGS too.
ABOUT = {
    "demo": "Run the whole pipeline on a small world that is written on the spot; nothing is downloaded.",
    "init": "Print a settings file to begin with, or its JSON schema.",
    "check": "Show what a run would make of a data file: format, errors, lengths, and which tokens are trained.",
    "sft": "Finetune a model on conversations, instructions or text.",
    "classify": "Train a head for classes or numbers on labelled texts.",
    "sample": "Answer prompts, several times each.",
    "rank": "Serve the page on which people rank answers; also rank stats, export, import and link.",
    "reward": "Train a reward model from ranked answers.",
    "ppo": "Train a model against a reward with PPO.",
    "dpo": "Train a model on preferences directly.",
    "online-dpo": "Train a model on preferences among its own answers, by a reward.",
    "rlhf": "Run the whole loop in rounds: sample, rank, reward model, PPO or DPO, evaluation.",
    "eval": "Measure a model, alone or against another.",
    "chat": "Talk to a model, or to two of them side by side, and vote.",
    "report": "Write the page of a run: curves, answers before and after, tokens; of several: side by side.",
    "runs": "List runs with what became of them, or say what differs between two.",
    "merge": "Merge an adapter into full weights, and prove that nothing changed.",
    "selftest": "Measure this installation, and a model if one is given, against theory; seconds.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """An option that commands understand besides their settings."""

    about: str
    commands: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A flag of a command that has no settings; without a default it stands without its name, once or `many` times."""

    name: str
    kind: type
    about: str
    default: object = None
    many: bool = False


_STORE = Option(name="db", kind=str, about="the ranking store")
# Of one word, or of two that belong to a command with settings.
WITHOUT_SETTINGS = {
    "demo": (
        Option(name="out", kind=str, default="runs/demo", about="the folder for all runs of the demo [runs/demo]"),
        Option(name="seed", kind=int, default=0, about="of the world, the annotator and every run [0]"),
    ),
    "selftest": (
        Option(name="model", kind=str, default="", about="a model to measure too: a run, a folder or a hub id"),
        Option(name="only", kind=str, default="", about="measure only laws that say this, or are about it"),
    ),
    "runs": (Option(name="what", kind=str, many=True, about="a folder [runs], or diff A B: what two runs differ in"),),
    "report": (
        Option(name="run", kind=str, many=True, about="a run folder, or several to be compared"),
        Option(
            name="out",
            kind=str,
            default="",
            about="its file: .html, .md or .json [RUN/report.html; of several report.html]",
        ),
        Option(
            name="link", kind=bool, default=False, about="keep plotly's script in a file beside the page: 5 MB less"
        ),
        Option(
            name="serve", kind=bool, default=False, about="serve it instead: it follows the run, and opens all rollouts"
        ),
        Option(name="host", kind=str, default="127.0.0.1", about="the address to listen on [127.0.0.1]"),
        Option(name="port", kind=int, default=8713, about="the port; 0: any that is free [8713]"),
        Option(
            name="token",
            kind=str,
            default="auto",
            about="what the address carries; auto: nothing on this machine, else one is made [auto]",
        ),
    ),
    "init": (
        Option(name="command", kind=str, about="whose settings: a method, sample, eval or check"),
        Option(name="schema", kind=bool, default=False, about="print the JSON schema for editors instead"),
        Option(name="preset", kind=str, default="", about="ppo: deepspeed-chat, instructgpt or summarize2020 instead"),
    ),
    "rank stats": (_STORE,),
    "rank export": (
        _STORE,
        Option(name="out", kind=str, default="rankings.jsonl", about="the file to write [rankings.jsonl]"),
        Option(name="pairs", kind=bool, default=False, about="write pairs of chosen and rejected instead of rankings"),
        Option(name="held_out", kind=str, default="10%", about="share of the prompts for a file of their own [10%]"),
    ),
    "rank import": (
        Option(name="data", kind=str, about="rankings or pairs"),
        Option(name="db", kind=str, default="feedback.db", about="the ranking store [feedback.db]"),
        Option(name="annotator", kind=str, default="imported", about="whose rankings are that name nobody [imported]"),
    ),
    "rank link": (
        _STORE,
        Option(name="name", kind=str, about="whose link it is"),
        Option(name="at", kind=str, default="http://127.0.0.1:8712", about="where the page is [http://127.0.0.1:8712]"),
    ),
}
_RUNS = frozenset({*_TRAINING, "rlhf", "sample", "demo"})
_ALL = frozenset({*ABOUT, *WITHOUT_SETTINGS}) - {"init"}
SWITCHES = {
    "dry_run": Switch(
        about="check settings, data, memory, disk and time, say what the run would take, and write nothing",
        commands=frozenset(_TRAINING),
    ),
    "fresh": Switch(about="remove an earlier run from out, and only that", commands=_RUNS | {"rank export"}),
    "quiet": Switch(about="show nothing but errors and the result", commands=_ALL),
    "json": Switch(about="print the result as JSON; progress goes to standard error", commands=_ALL - {"chat"}),
    "debug": Switch(about="show tracebacks and the warnings of other libraries", commands=_ALL),
}
