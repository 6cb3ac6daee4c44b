"""The command line: every setting is a flag of the same name, and errors are one clear line."""

from __future__ import annotations

import difflib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib import import_module
from inspect import Parameter as Argument
from inspect import Signature
from typing import Annotated, Any

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnusedCliTokensError,
)

from posttrain.config import CONFIGS, Leaf, Settings, leaves, load_config, unknown_flags
from posttrain.console import Console, open_console
from posttrain.errors import ConfigError, DoesNotFit, PosttrainError, Problem

_EPILOGUE = "Settings are named alike as flags, in YAML and as Python keywords; [brackets] hold the defaults."
_TRAINING = ("sft", "reward", "ppo", "dpo")
_ABOUT = {
    "sft": "Finetune a model on conversations, instructions or text.",
    "sample": "Answer prompts, several times each.",
    "reward": "Train a reward model from ranked answers.",
    "ppo": "Train a model against a reward with PPO.",
    "dpo": "Train a model on preferences directly.",
    "eval": "Measure a model, alone or against another.",
    "check": "Show what a run would make of a data file: format, errors, lengths, and which tokens are trained.",
}
_IN_OUT = ("model", "against", "reward", "prompts", "data", "eval_data", "out")
_OPTIONS = {
    "fresh": "remove an earlier run from out, and only that",
    "quiet": "show nothing but errors and the result",
    "json": "print the result as JSON; progress goes to standard error",
    "debug": "show tracebacks and the warnings of other libraries",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every command understands besides its settings."""

    fresh: bool = False
    quiet: bool = False
    json: bool = False
    debug: bool = False


def main(tokens: Sequence[str] | None = None) -> int:
    """The exit code of a command line (`sys.argv`).

    0 done, 1 unforeseen, 2 your settings or data, 3 does not fit, 4 diverged or a trip wire, 130 interrupted.
    """
    words = list(sys.argv[1:] if tokens is None else tokens)
    try:
        _dispatch(words)
    except PosttrainError as error:
        return _fail(str(error), error.exit_code, debug="--debug" in words)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:  # the last line of defence: whatever no part of the package foresaw
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return _fail(f"out of memory: {error}", DoesNotFit.exit_code, debug="--debug" in words)
        hint = "" if "--debug" in words else "\n  rerun with --debug for the traceback"
        return _fail(f"{type(error).__name__}: {error}{hint}", 1, debug="--debug" in words)
    return 0


def _fail(message: str, code: int, *, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def _dispatch(words: Sequence[str]) -> None:
    """Parse and run one command. Raises ConfigError for commands, flags and arguments that there are not."""
    problems = list(_unknown(words))
    if problems:
        raise ConfigError(problems)
    try:
        command, bound, _ = build().parse_args(words)
    except CycloptsError as error:
        raise ConfigError(_in_our_words(error)) from error
    command(*bound.args, **bound.kwargs)


def build() -> App:
    """The application with one command for each class of settings, and the demo."""
    app = App(
        name="posttrain",
        help="Post-training for language models: finetuning, RLHF from rankings, and DPO.",
        help_epilogue=_EPILOGUE,
        help_format="plaintext",
        print_error=False,
        exit_on_error=False,
        default_parameter=Parameter(negative=(), show_default=False, show_env_var=False),
    )
    for name, config in CONFIGS.items():
        app.command(_command(name, config), name=name)
    app.command(demo, name="demo")
    return app


# --- one command from one class of settings -----------------------------------------------------------------------


def _command(name: str, config: type[Settings]) -> Callable[..., None]:
    """A function whose signature has one parameter for each setting, so that cyclopts parses and documents them."""
    known = {leaf.name.replace(".", "__"): leaf for leaf in leaves(config) if leaf.name != "version"}

    # `source` has no name here: cyclopts would take its annotation from this line instead of the signature below
    def command(*positional: str | None, **given: Any) -> None:
        options = Options(**{option: given.pop(option, False) for option in _OPTIONS})
        flags = {known[key].name: value for key, value in given.items() if value is not None}
        _run(config, positional[0] if positional else None, flags, options)

    own = set(config.__annotations__)
    what = "settings in YAML, which flags override"
    about = what if name in _TRAINING else f"the model, or {what}"
    parameters = [_positional("settings" if name in _TRAINING else "model_or_settings", about)]
    parameters += [_flag(key, leaf, _group(leaf, own, name)) for key, leaf in known.items()]
    parameters += [_switch(option, _OPTIONS[option]) for option in _options(name)]
    command.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__doc__ = _ABOUT[name]
    return command


def _options(command: str) -> list[str]:
    """The switches of a command: an evaluation writes no run that `--fresh` could remove."""
    return [option for option in _OPTIONS if option != "fresh" or command != "eval"]


def _positional(name: str, about: str) -> Argument:
    kind = Annotated[str | None, Parameter(help=about)]
    return Argument(name, Argument.POSITIONAL_ONLY, default=None, annotation=kind)


def _flag(key: str, leaf: Leaf, group: Group) -> Argument:
    names = (f"--{leaf.name}", f"-{leaf.name}") if len(leaf.name) == 1 else (f"--{leaf.name}",)
    about = Parameter(name=names, help=leaf.help, group=group, metavar=leaf.metavar)
    kind = Annotated[list[str] | None, about] if leaf.takes_many else Annotated[str | None, about]
    return Argument(key, Argument.KEYWORD_ONLY, default=None, annotation=kind)


def _switch(option: str, about: str) -> Argument:
    kind = Annotated[bool, Parameter(name=f"--{option}", help=about, group=Group("Options", sort_key=4))]
    return Argument(option, Argument.KEYWORD_ONLY, default=False, annotation=kind)


def _group(leaf: Leaf, own: set[str], command: str) -> Group:
    """The heading that a setting stands under in the help."""
    root = leaf.name.split(".")[0]
    if root in _IN_OUT:
        return Group("In and out", sort_key=1)
    return Group(f"Settings of {command}", sort_key=2) if root in own else Group("Shared settings", sort_key=3)


def _run(config: type[Settings], source: str | None, flags: dict[str, Any], options: Options) -> None:
    """Settings first, in seconds; the recipe with its heavy imports only when they are right."""
    is_file = source is not None and (config.command in _TRAINING or source.endswith((".yaml", ".yml")))
    if source is not None and not is_file:
        flags = {"model": source, **flags}
    settings = load_config(config, source if is_file else None, flags)
    _hush(debug=options.debug)

    from posttrain import start

    _print_result(start(settings, console=_console(options), fresh=options.fresh), options)


def demo(
    *,
    out: Annotated[str, Parameter(name="--out", help="the folder for all runs of the demo")] = "runs/demo",
    seed: Annotated[int, Parameter(name="--seed", help="of the world, the annotator and every run")] = 0,
    fresh: Annotated[bool, Parameter(name="--fresh", help=_OPTIONS["fresh"])] = False,
    quiet: Annotated[bool, Parameter(name="--quiet", help=_OPTIONS["quiet"])] = False,
    json: Annotated[bool, Parameter(name="--json", help=_OPTIONS["json"])] = False,
    debug: Annotated[bool, Parameter(name="--debug", help=_OPTIONS["debug"])] = False,
) -> None:
    """Run the whole pipeline on a small world that is written on the spot; nothing is downloaded."""
    options = Options(fresh=fresh, quiet=quiet, json=json, debug=debug)
    _hush(debug=debug)

    workflow = import_module("posttrain.workflows.demo").demo
    console = _console(options)
    try:
        _print_result(workflow(out, seed=seed, console=console, fresh=fresh), options)
    finally:
        console.finish()


# --- what is shown --------------------------------------------------------------------------------------------------


def _console(options: Options) -> Console:
    return open_console(quiet=options.quiet, stream=sys.stderr if options.json else sys.stdout)


def _print_result(result: object, options: Options) -> None:
    from posttrain.run import Run

    if isinstance(result, Run):
        shown: object = {"out": str(result), "status": result.status, "results": result.results}
    else:
        shown = {"out": os.fspath(result)} if isinstance(result, os.PathLike) else _plain(result)
    if options.json:
        print(json.dumps(shown, ensure_ascii=False, default=str))
    elif options.quiet and isinstance(result, os.PathLike):
        print(os.fspath(result))


def _plain(result: object) -> object:
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


def _hush(*, debug: bool) -> None:
    """Keep other libraries' progress bars and warnings out of ours; `--debug` lets the warnings through."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not debug:
        warnings.simplefilter("ignore")


# --- words for what was typed wrong ---------------------------------------------------------------------------------


def _unknown(words: Sequence[str]) -> Iterator[Problem]:
    """One problem for an unknown command, or for each unknown flag. The parser would tell only the first."""
    name = words[0] if words else "--help"
    if name.startswith("-"):
        return
    if name not in (*CONFIGS, "demo"):
        hint = _did_you_mean(name, [*CONFIGS, "demo"]) or f"; there are {', '.join([*CONFIGS, 'demo'])}"
        yield Problem(place="", what=f"unknown command '{name}'{hint}")
        return
    config = CONFIGS.get(name)
    flags = [f"--{leaf.name}" for leaf in leaves(config) if leaf.name != "version"] if config else ["--out", "--seed"]
    flags += [f"--{option}" for option in _options(name)]
    for word in words[1:]:
        flag = word.split("=")[0]
        if not flag.startswith("--") or flag in (*flags, "--help", "--version"):
            continue
        option = _did_you_mean(flag, flags)
        problems = unknown_flags(config, [flag[2:]]) if config else []
        told = [problem for problem in problems if problem.what != "unknown flag"]
        yield from told or [Problem(place=flag, what=f"unknown flag{option}")]


def _in_our_words(error: CycloptsError) -> str:
    """The parser's complaint in the words of the rest."""
    flag = error.argument.name if error.argument is not None else ""
    if isinstance(error, MissingArgumentError):
        return f"{flag}  needs a value"
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword}  is given twice"
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected argument '{(error.unused_tokens or ['?'])[0]}'"
    error.verbose = False
    return " ".join(str(error).split())


def _did_you_mean(word: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
