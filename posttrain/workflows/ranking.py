"""`posttrain rank`: a pool of answers into a store, and the page on which people rank them."""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from posttrain.commands import WITHOUT_SETTINGS
from posttrain.config import RankConfig
from posttrain.config.automatic import share
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data import feedback_db
from posttrain.data.feedback_schema import VERSION
from posttrain.data.readers import Reading, open_data
from posttrain.errors import ConfigError, DataError, Problem
from posttrain.feedback.assigning import Rules
from posttrain.feedback.kept import KEPT, keep_settings, kept_settings, put_first
from posttrain.feedback.mirror import Mirror
from posttrain.feedback.pool import pool_of
from posttrain.feedback.server import Options, application
from posttrain.pages.serving import Serving, check_address
from posttrain.pages.tokens import token_for
from posttrain.records import JSON, Message, RankedRecord, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """What stands in a store when its page is closed."""

    db: str
    done: int
    of: int
    annotators: Mapping[str, int]

    def facts(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return asdict(self)

    def line(self) -> str:
        """`36 of 200 items are ranked in feedback.db: ann 20, ben 16`."""
        who = ", ".join(f"{name} {count:,}" for name, count in self.annotators.items())
        return f"{self.done:,} of {counted(self.of, 'item')} are ranked in {self.db}" + (f": {who}" if who else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A store with all answers that are to be ranked in it, and how its page is served."""

    store: Path
    options: Options
    port: int

    @contextmanager
    def served(self) -> Generator[tuple[Serving, str]]:
        """Inside, people can rank: the server, and the address that they open."""
        with Serving(application(self.store, self.options), host=self.options.host, port=self.port) as serving:
            token = self.options.token
            yield serving, f"{serving.address}/{f'?token={token}' if token else ''}"


def rank(config: RankConfig, *, console: Console) -> Ranked:
    """Serves the page until it is interrupted, and returns what is ranked by then.

    Raises ConfigError for settings that cannot be followed, DataError for a pool or a store that cannot be read.
    """
    check_address(config.host, config.port)  # before a setting of the store is changed
    page = page_of(config, console=console)
    with page.served() as (serving, address):
        console.say(f"rank at {address}")
        console.say("Ctrl-C ends it; everything that was ranked by then is in the store")
        with suppress(KeyboardInterrupt):
            serving.wait()
    found = standing_of(page.store)
    console.finish(found.line())
    return found


def page_of(config: RankConfig, *, console: Console, first: Sequence[str] | None = None) -> Page:
    """The page of a store, once the answers of the pool are in it; raises as `rank` does.

    `first`: the items that are handed out before all others from now on, by whichever process; None leaves that as it
    was.
    """
    guidelines, token = _guidelines(config), token_for(config.host, config.token)
    pools = [(reading, list(reading)) for reading in _opened(config)]
    store = Path(config.db)
    _prepare(store, console, filled=bool(pools))
    with closing(feedback_db.connect(store)) as connection:
        kept = _settle(connection, config, guidelines, console)
        if first is not None:  # before there are more items, at which a page that is open looks for it
            with connection:
                put_first(connection, first)
        _add(connection, pools, kept, console)
        if not connection.execute("SELECT 1 FROM items").fetchone():
            raise _nothing(store, "there is nothing to rank in it yet")
        rules = _rules(config, kept, connection, console)
    options = Options(
        rules=rules,
        host=config.host,
        token=token,
        guidelines=cast("str", kept["guidelines"]),
        tell=console.say,
    )
    return Page(store=store, options=options, port=config.port)


def standing_of(store: Path) -> Ranked:
    """What stands in a store."""
    with closing(feedback_db.reader(store)) as connection:
        mirror = Mirror(connection)
        mirror.catch_up()
    standing = mirror.standing
    ranked = {name: standing.ranked[name] for name in standing.annotators() if standing.ranked[name]}
    return Ranked(db=str(store), done=standing.started, of=len(standing.items), annotators=ranked)


# --- the store --------------------------------------------------------------------------------------------------


def _opened(config: RankConfig) -> list[Reading]:
    """The files of the pool, recognised and not yet read. Raises DataError with the problems of all of them."""
    readings: list[Reading] = []
    problems: list[Problem] = []
    for item in config.pool or ():
        if item.weight != 1:
            what = f"weight {item.weight:g} of {item.path}: every answer is ranked as often"
            problems.append(Problem(place="--pool", what=what, fix="take weight out"))
        if (other := _no_pool(Path(item.path))) is not None:
            problems.append(other)
            continue
        try:
            bad, columns = share(config.max_bad), item.columns
            readings.append(
                open_data(item.path, "pool", max_bad=bad, columns=columns, subset=item.subset, split=item.split)
            )
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return readings


def _no_pool(path: Path) -> Problem | None:
    """What is wrong with a path that was meant otherwise: as a store, or as a command such as `rank stats`."""
    if path.is_file() and feedback_db.is_database(path):
        what = "this is a database; a pool is a file of answers"
        return Problem(place=str(path), what=what, fix=f"to rank what is in a store: posttrain rank --db {path}")
    commands = [name for name in WITHOUT_SETTINGS if name.startswith("rank ")]
    near = difflib.get_close_matches(f"rank {path}", commands, n=1, cutoff=0.75)
    if near and not path.exists():
        return Problem(place=str(path), what="there is no such file", fix=f"did you mean posttrain {near[0]}?")
    return None


def _prepare(store: Path, console: Console, *, filled: bool) -> None:
    """Makes a store where there is none, and says what becomes of one of an earlier version.

    Raises DataError where there is none, and nothing it would be `filled` with.
    """
    if not store.exists():
        if not filled:
            raise _nothing(store, "there is no such store yet")
        store.parent.mkdir(parents=True, exist_ok=True)
        feedback_db.create(store).close()
        console.say(f"{store}: a new store")
    elif (version := feedback_db.version_of(store)) < VERSION:
        console.say(f"{store}: version {version} becomes {VERSION}; earlier ones of this program cannot open it then")


def _nothing(store: Path, what: str) -> DataError:
    return DataError([Problem(place=str(store), what=what, fix="give a pool: posttrain rank pool.jsonl")])


def _settle(
    connection: sqlite3.Connection, config: RankConfig, guidelines: str | None, console: Console
) -> dict[str, JSON]:
    """The settings of the store: those given now, else those that it has, else the defaults. Says what changes."""
    before = kept_settings(connection)
    given = {name: cast("JSON", getattr(config, name)) for name in KEPT if name != "guidelines"}
    given["guidelines"] = guidelines or ""
    now = {name: value for name, value in given.items() if name in config.model_fields_set or name not in before}
    with connection:
        changed = keep_settings(connection, now)
    for name, (old, new) in changed.items():
        text = name == "guidelines"
        console.say(f"{config.db}: {name} {'are another text' if text else f'was {old}, and is {new}'} from now on")
    kept = {**before, **now}
    others = [f"{name} {kept[name]}" for name in KEPT if name != "guidelines" and kept[name] != given[name]]
    if others:
        console.say(f"{config.db}: as it was set before: {', '.join(others)}")
    return kept


def _add(
    connection: sqlite3.Connection,
    pools: Sequence[tuple[Reading, Sequence[Record]]],
    kept: Mapping[str, JSON],
    console: Console,
) -> None:
    """Puts the answers of all files into the store; says what was read, left out and there already."""
    for reading, records in pools:
        pool = pool_of(records, seed=cast("int", kept["seed"]), audit=cast("float", kept["audit"]))
        new = feedback_db.add_items(connection, pool.items)
        tally = reading.tally
        lost = {
            "bad (left out)": tally.bad,
            "twice (left out)": tally.duplicates,
            "with one answer left (left out)": pool.alone,
            "in the store already": len(pool.items) - new,
        }
        said = [f"{counted(tally.rows, 'row')}, {reading.format}", f"{counted(new, 'item')} new"]
        said += [f"{count:,} {what}" for what, count in lost.items() if count]
        if pool.repeated:
            said.append(f"{counted(pool.repeated, 'answer')} of the same text as another left out")
        console.say(f"{reading.path}: {'; '.join(said)}")
        for problem in tally.problems[:5]:
            console.say(str(problem))
    count = "SELECT count(*), ifnull(sum(audit), 0) FROM items"
    items, audits = connection.execute(count).fetchone()
    if audits:
        console.say(f"{counted(audits, 'item')} of {items:,} are audit items: people rank them, nothing trains on them")


def _rules(config: RankConfig, kept: Mapping[str, JSON], connection: sqlite3.Connection, console: Console) -> Rules:
    """How items are handed out, with what a reward model makes of those that nobody ranked where it is to choose."""
    uncertain, unsure = 0.0, dict[str, float]()
    if config.choose == "uncertain":
        records = list(_unranked(connection))
        unsure = import_module("posttrain.workflows.unsure").unsure(config.reward, records, console)
        uncertain = config.uncertain
        mean = sum(unsure.values()) / len(unsure) if unsure else 0.0
        console.say(f"reward {config.reward}: unsure of {counted(len(unsure), 'item')} by {mean:.2f} bits in the mean")
    return Rules(
        seed=cast("int", kept["seed"]),
        overlap=cast("float", kept["overlap"]),
        repeat=cast("float", kept["repeat"]),
        hold=cast("float", kept["lock"]) * 60,
        uncertain=uncertain,
        unsure=unsure,
    )


def _unranked(connection: sqlite3.Connection) -> Iterator[RankedRecord]:
    """The items that nobody ranked, as records; audit items are left to chance."""
    query = "SELECT id, prompt, responses FROM items WHERE NOT audit AND id NOT IN (SELECT item FROM events)"
    for name, prompt, responses in connection.execute(query):
        answers = json.loads(responses)
        stopped = tuple(answer["stopped"] for answer in answers)
        yield RankedRecord(
            id=name,
            prompt=tuple(Message(role=message["role"], content=message["content"]) for message in json.loads(prompt)),
            responses=tuple(answer["text"] for answer in answers),
            ranks=(None,) * len(answers),
            stopped=None if None in stopped else stopped,
        )


# --- the server -------------------------------------------------------------------------------------------------


def _guidelines(config: RankConfig) -> str | None:
    """The text of the guidelines. Raises ConfigError for a file that cannot be read as text."""
    if config.guidelines is None:
        return None
    try:
        return Path(config.guidelines).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        what = f"{config.guidelines} cannot be read as text: {getattr(reason, 'strerror', None) or reason}"
        raise ConfigError([Problem(place="--guidelines", what=what, fix="give a text file in UTF-8")]) from reason
