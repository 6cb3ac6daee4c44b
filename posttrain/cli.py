"""The command line: every setting is a flag of the same name, and errors are one clear line."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib import import_module
from inspect import Parameter as Argument
from inspect import Signature
from types import FrameType
from typing import TYPE_CHECKING, Any

from posttrain.commands import ABOUT, WITHOUT_SETTINGS
from posttrain.errors import ConfigError, DataError, Interrupted, LawBroken, PosttrainError, unforeseen
from posttrain.parameters import dashed, option_flag, setting_flags, switch_flags, switches

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

    from posttrain.config import Settings
    from posttrain.console import Console

_EPILOGUE = "Settings are named alike as flags, in YAML and as Python keywords; [brackets] hold the defaults."
# Those that change what the recipe does (and are its parameters); the others change what is shown.
_FOR_RECIPES = ("fresh", "dry_run")


def main(tokens: Sequence[str] | None = None) -> int:
    """The exit code of a command line (`sys.argv`).

    0 done, 1 unforeseen, or two runs differ, 2 your settings or data, 3 does not fit, 4 diverged or a trip wire, 130
    interrupted.
    """
    words = list(sys.argv[1:] if tokens is None else tokens)
    debug = "--debug" in words
    try:
        with _stoppable():
            return _dispatch(words)
    except PosttrainError as error:
        return _fail(str(error), error.exit_code, debug=debug)
    except KeyboardInterrupt as stop:  # one of ours says where the run goes on
        return _fail(str(stop) or "interrupted", 130)
    except BrokenPipeError:  # `posttrain init sft | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the last line of defence: whatever no part of the package foresaw
        message, code = unforeseen(error)
        hint = "" if debug or code != 1 else "\n  rerun with --debug for the traceback"
        return _fail(message + hint, code, debug=debug)


@contextmanager
def _stoppable() -> Generator[None]:
    """Inside, SIGTERM ends a command as Ctrl-C does; outside the main thread it cannot, and nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # forked, say for a reward function: the default takes its course
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not isinstance(sys.exception(), KeyboardInterrupt):  # some senders repeat it
            raise Interrupted("interrupted")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _fail(message: str, code: int, *, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    from posttrain.inert import inert

    with suppress(BrokenPipeError):  # `2>&1 | head`: the exit code still tells
        print(f"error: {inert(message)}", file=sys.stderr)
    return code


def _dispatch(words: Sequence[str]) -> int:
    """The exit code of one command. Raises ConfigError for commands, flags and arguments that there are not."""
    name = words[0] if words else "--help"
    if not name.startswith("-") and name not in ABOUT:
        from posttrain.config.flags import unknown_command

        raise ConfigError(unknown_command(name, list(ABOUT)))
    name = " ".join(words[:2]) if " ".join(words[:2]) in WITHOUT_SETTINGS else name  # `rank stats`
    rest = words[len(name.split()) :]
    if any(word.startswith("-") and word not in ("--help", "-h") for word in rest):
        words = [*name.split(), *_known(name, rest)]

    from cyclopts import CycloptsError

    try:
        command, bound, _ = build(name).parse_args(words)
    except CycloptsError as error:
        raise ConfigError(_in_our_words(error)) from error
    return command(*bound.args, **bound.kwargs) or 0


def _known(name: str, words: Sequence[str]) -> list[str]:
    """The words with flags as we write them. Raises ConfigError for all unknown ones; the parser would tell one."""
    from posttrain.config.flags import flags_of, spelled, unknown

    own = [option.name for option in WITHOUT_SETTINGS.get(name, ()) if option.default is not None]
    flags = [*flags_of(name), *map(dashed, (*own, *switches(name)))]
    words = spelled(words, flags)
    problems = list(unknown(name, words, flags))
    if problems:
        raise ConfigError(problems)
    return words


def build(chosen: str = "") -> App:
    """The application: the chosen command with all of its flags, the others with a line each."""
    from cyclopts import App, Parameter

    app = App(
        name="posttrain",
        help="Post-training for language models: finetuning, RLHF from rankings, and DPO.",
        help_epilogue=_EPILOGUE,
        help_format="plaintext",
        print_error=False,
        exit_on_error=False,
        default_parameter=Parameter(negative=(), show_default=False, show_env_var=False),
    )
    for place, name in enumerate(ABOUT):
        if chosen.startswith(f"{name} "):
            both = App(name=name, help=ABOUT[name], sort_key=place)
            both.command(_command(chosen), name=chosen.removeprefix(f"{name} "))
            app.command(both)
            continue
        function = _command(name) if name == chosen else _line(name)
        app.command(function, name=name, sort_key=place, help=ABOUT[name])
    return app


def _line(name: str) -> Callable[..., None]:
    """A command that is only listed: its settings are read when it is the one that was typed."""

    def listed() -> None: ...

    listed.__doc__ = ABOUT[name]
    return listed


# --- one command from one class of settings -----------------------------------------------------------------------


def _command(name: str) -> Callable[..., int | None]:
    """The function behind a command, with one parameter for each flag, so that cyclopts parses and documents them."""
    if name in WITHOUT_SETTINGS:
        return _plain_command(name)

    from posttrain.config import CONFIGS, leaves

    config = CONFIGS[name]
    known = {leaf.name.replace(".", "__"): leaf for leaf in leaves(config) if leaf.name != "version"}

    # `source` has no name here: cyclopts would take its annotation from this line instead of the signature below
    def command(*positional: str, **given: Any) -> None:
        options = {switch: bool(given.pop(switch, False)) for switch in switches(name)}
        flags = {known[key].name: value for key, value in given.items() if value is not None}
        _run(config, positional, flags, options)

    return _signed(command, [*setting_flags(config, known), *switch_flags(name)])


def _plain_command(name: str) -> Callable[..., int | None]:
    """The function behind a command without settings: its options, given or by default, and its switches."""
    named = [option for option in WITHOUT_SETTINGS[name] if option.default is not None]
    defaults = {option.name: option.default for option in named} | dict.fromkeys(switches(name), False)
    functions: dict[str, Callable[..., int | None]] = {
        "demo": demo,
        "init": init,
        "report": report,
        "runs": runs,
        "selftest": selftest,
    }
    function = functions.get(name) or partial(_of_store, name)

    def command(*positional: str, **given: object) -> int | None:
        return function(*positional, **(defaults | given))

    return _signed(command, [*map(option_flag, WITHOUT_SETTINGS[name]), *switch_flags(name)])


def _signed(function: Callable[..., int | None], parameters: Sequence[Argument]) -> Callable[..., int | None]:
    """The function under a signature, from which cyclopts makes parser and help."""
    function.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return function


def _run(config: type[Settings], sources: Sequence[str], flags: Mapping[str, Any], options: Mapping[str, bool]) -> None:
    """Settings first, in seconds; the recipe with its heavy imports only when they are right."""
    from posttrain.config import load_config
    from posttrain.config.flags import with_positional
    from posttrain.config.places import check_out

    is_file = bool(sources) and (not config.positional or sources[0].endswith((".yaml", ".yml")))
    if len(sources) > 1 and (is_file or config.positional not in ("data", "pool")):
        raise ConfigError(f"unexpected argument '{sources[1]}'")
    if sources and not is_file:
        flags = with_positional(config.positional, sources, flags)
    settings = load_config(config, sources[0] if is_file else None, flags)
    if config.positional:  # a run folder is looked at when it is claimed
        check_out(settings)
    _hush(debug=options["debug"])

    from posttrain import start

    asked = {option: True for option in _FOR_RECIPES if options.get(option)}
    # Answers of a chat alone go to standard output: somebody may read them from a pipe.
    result = start(settings, console=_console(options, aside=config.command == "chat"), **asked)
    _print_result(result, options)
    if refused := getattr(result, "refused", ""):  # what was checked is printed all the same
        raise DataError(refused)


def demo(*, out: str, seed: int, fresh: bool, **options: bool) -> None:
    """Run the whole pipeline on a small world."""
    _hush(debug=options["debug"])

    workflow = import_module("posttrain.workflows.demo").demo
    console = _console(options)
    try:
        _print_result(workflow(out, seed=seed, console=console, fresh=fresh), options)
    finally:
        console.finish()


def selftest(*, model: str, only: str, **options: bool) -> None:
    """Measure the laws, and fail when one is broken."""
    _hush(debug=options["debug"])

    measured = import_module("posttrain.workflows.selftest").selftest(
        model or None, only=only, console=_console(options)
    )
    _print_result(measured, options)
    if measured.broken:
        raise LawBroken(measured.broken)


def report(*words: str, out: str, link: bool, serve: bool, host: str, port: int, token: str, **options: bool) -> None:
    """Write the report of runs, or serve that of one; as JSON it is printed, and only written where `out` says so."""
    if not words:
        raise ConfigError("report  needs a run folder\n  fix: posttrain report RUN")
    _hush(debug=options["debug"])
    if serve:
        run, *others = words
        if others or out or link or options["json"]:
            fix = "give its folder, and no --out, --link or --json"
            raise ConfigError(f"report --serve  serves the page of one run\n  fix: {fix}")
        follow = import_module("posttrain.report.live").follow
        follow(run, host=host, port=port, token=token, console=_console(options))
        return

    reporting = import_module("posttrain.workflows.reporting")
    written = reporting.report(words, out=out, link=link) if out or not options["json"] else None
    _console(options).finish(f"wrote {written}" if written else "")
    _print_result(reporting.facts(words) if options["json"] else written, options)


def runs(*words: str, **options: bool) -> int:
    """List runs, or say what differs between two; the exit code is that of `diff`: 1 when they differ."""
    answer = import_module("posttrain.run.asked").answer
    found, code = answer(words, _console(options), plain=options["json"])
    _print_result(found, options)
    return code


def _of_store(name: str, *words: str, **given: object) -> None:
    """Do what a command of two words says with a ranking store."""
    shown = {switch: bool(given[switch]) for switch in ("quiet", "json", "debug")}
    options = {option: value for option, value in given.items() if option not in shown}
    _hush(debug=shown["debug"])
    work = getattr(import_module("posttrain.workflows.ranking_store"), name.replace(" ", "_"))
    _print_result(work(*words, console=_console(shown), **options), shown)


def init(command: str, /, *, schema: bool, preset: str) -> None:
    """Print a settings file to begin with, a published recipe, or the JSON schema."""
    from posttrain.config.starter import printed

    print(printed(command, schema=schema, preset=preset), end="")


# --- what is shown --------------------------------------------------------------------------------------------------


def _console(options: Mapping[str, bool], *, aside: bool = False) -> Console:
    """Where progress is shown: on standard output, or `aside` of a result that goes there."""
    from posttrain.console import open_console

    return open_console(quiet=options["quiet"], stream=sys.stderr if aside or options.get("json") else sys.stdout)


def _print_result(result: object, options: Mapping[str, bool]) -> None:
    from posttrain.inert import inert
    from posttrain.run import Run

    if isinstance(result, Run):
        shown: object = {"out": str(result), "status": result.status, "results": result.results}
    else:
        shown = {"out": os.fspath(result)} if isinstance(result, os.PathLike) else _plain(result)
    if options.get("json"):
        print(inert(json.dumps(shown, ensure_ascii=False, default=str)))
    elif options["quiet"] and isinstance(result, os.PathLike):
        print(os.fspath(result))


def _plain(result: object) -> object:
    facts = getattr(result, "facts", None)
    if callable(facts):
        return facts()
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


def _hush(*, debug: bool) -> None:
    """Keep other libraries' progress bars and warnings out of ours; `--debug` lets the warnings through."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not debug:
        warnings.simplefilter("ignore")


# --- words for what was typed wrong ---------------------------------------------------------------------------------


def _in_our_words(error: CycloptsError) -> str:
    """The parser's complaint in the words of the rest."""
    from cyclopts import MissingArgumentError, RepeatArgumentError, UnusedCliTokensError

    flag = error.argument.name if error.argument is not None else ""
    if isinstance(error, MissingArgumentError):
        return f"{flag}  needs a value"
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword}  is given twice"
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected argument '{(error.unused_tokens or ['?'])[0]}'"
    error.verbose = False
    return " ".join(str(error).split())
