"""`posttrain rank` in a process forked from one that has imported it, so that a start costs no import."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

from posttrain.cli import main

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["pytest", "cyclopts", "posttrain.cli", "posttrain.config.flags", "posttrain.workflows.ranking"]
)


def run(words: Sequence[str], said: Connection) -> None:
    """The whole life of a process: the command line with these words, all that it prints going to `said`."""
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    sys.exit(main(words))
