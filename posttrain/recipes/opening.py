"""How every training command begins: claim the folder, read what is cheap, fail early, then train inside the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from posttrain.config import DataItem, Training
from posttrain.config.automatic import held_out_share
from posttrain.console import Console
from posttrain.errors import ModelError
from posttrain.models.load import is_adapter
from posttrain.recipes import setup
from posttrain.recipes.rows import Rows, problems_of, read_rows
from posttrain.run import Run, RunWriter, check_out
from posttrain.text.chat import Codec
from posttrain.types import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a run has before its model is loaded. `limit` is the longest sequence in tokens.

    `held_out`: the rows of an `eval_data` file, none where it is a share. `aside`: the rows of one more file.
    """

    rows: list[Rows]
    held_out: list[Rows]
    aside: list[Rows]
    codec: Codec
    limit: int
    run: setup.Telling


def training(
    config: Training,
    data: Sequence[DataItem],
    kinds: tuple[Kind, ...],
    train: Callable[[Opened], Run],
    *,
    console: Console,
    fresh: bool,
    lineage: Mapping[str, str] | None = None,
    reads: Sequence[str | None] = (),
    held_out: str | None = None,
    aside: str | None = None,
    check: Callable[[list[Rows], Codec, int], None] | None = None,
) -> Run:
    """Runs `train` inside the run folder of `config`, or returns the run that is done already.

    `lineage` names the models besides `model`, `reads` the files besides `data`, of which `held_out` (unless it is a
    share) and `aside` (conversations) are read here, before an earlier run is cleared away; `check` may refuse rows.
    Raises RunExists, ModelError or DataError with nothing written.
    """
    setup.quiet_libraries()
    parents = {"model": config.model, **(lineage or {})}
    files = setup.data_paths([item.path for item in data], *reads)
    check_out(config, config.out, fresh=fresh, lineage=parents, data=files)
    context = setup.context_of(config.model)
    codec = setup.load_codec(config.model, config.template, console)
    rows = read_rows(data, kinds, console)
    limit = setup.max_length(config.max_length, context, console)
    is_file = held_out is not None and held_out_share(held_out) is None
    held = read_rows(held_out, kinds, console) if held_out is not None and is_file else []
    other = read_rows(aside, ("chat",), console) if aside is not None else []
    if config.lora is None and is_adapter(config.model):
        raise ModelError(f"{config.model} is an adapter, and lora is null\n  fix: set lora, for example --lora.rank 32")
    if check is not None:
        check(rows, codec, limit)
    with RunWriter.create(config.out, config, fresh=fresh, lineage=parents, data=files) as writer:
        if writer.finished:
            console.say(f"{config.out} is done already; --fresh trains it again")
            return writer.run
        console.attach(writer.log)
        writer.problems(problems_of(rows))
        run = setup.Telling(writer=writer, console=console)
        return train(Opened(rows=rows, held_out=held, aside=other, codec=codec, limit=limit, run=run))
