"""The process that children are forked from: everything is imported once, so that a start costs no import.

It reads an order a line (JSON: `words`, `log`, and a `point` with its `count`, or a file for the `tally` of all points)
and writes the child's process id, `stopped` when it has stopped, and at last its exit code, negative for a signal.
`python tests/nursery.py [--pages]`; the child is an ordinary process, and whoever ordered it may kill it. Runs leave no
pages, which are 5 MB each, unless they are asked for.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cyclopts  # noqa: F401  # what a run imports on its way
import pandas  # noqa: F401
import peft  # noqa: F401
import points
import pyarrow.compute  # noqa: F401
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification  # noqa: F401
from transformers.conversion_mapping import get_model_conversion_mapping

from posttrain import cli
from posttrain.config import flags  # noqa: F401
from posttrain.recipes import classify, dpo, online_dpo, ppo, reward, setup, sft  # noqa: F401
from posttrain.workflows import reporting, rlhf  # noqa: F401


def main() -> None:
    """Takes orders until there are no more."""
    torch.set_num_threads(1)
    setup.SAMPLE_TOKENS = 16  # answers of full length are most of the time of a tiny run
    if "--pages" not in sys.argv:
        for name in ("at_end", "together"):
            setattr(reporting, name, lambda *_, **__: None)
    _warm()
    _say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_run(order))
        _say(str(child))
        while True:
            status = os.waitpid(child, os.WUNTRACED)[1]
            if not os.WIFSTOPPED(status):
                break
            _say("stopped")
        _say(str(os.waitstatus_to_exitcode(status)))


def _warm() -> None:
    """What every run does first and this process does for all of them; no gradient, which would bind threads."""
    shape = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    get_model_conversion_mapping(AutoModelForCausalLM.from_config(shape))
    # The preflight collects garbage: without this every child would copy all of these pages.
    gc.collect()
    gc.freeze()


def _run(order: Mapping[str, Any]) -> int:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order.get("environment", {}))
    words: list[str] = order["words"]
    out = Path(words[words.index("--out") + 1])
    tally = points.arm_all(out) if "tally" in order else None
    if "point" in order:
        points.arm(order["point"], order["count"], out)
    code = cli.main(words)
    if tally is not None:
        Path(order["tally"]).write_text(json.dumps(tally()), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
