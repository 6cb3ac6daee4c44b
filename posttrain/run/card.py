"""The model card: README.md of a run folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from posttrain.hub import reads_like_an_id

_WHAT = {
    "sft": "supervised finetuning",
    "classify": "a head for labels",
    "reward": "a reward model from rankings",
    "online-dpo": "direct preference optimisation on its own answers",
    "ppo": "reinforcement learning with PPO",
    "dpo": "direct preference optimisation",
}


def model_card(folder: Path, record: Mapping[str, Any], *, base: str, settings: str) -> str:
    """Markdown with the hub's front matter: what the model is, how to load it, its data, results and settings.

    `record` is run.json, `base` the model it started from, `settings` the resolved YAML.
    """
    command = record["command"]
    adapter = (folder / "adapter_config.json").is_file()
    parts = [
        _front_matter(command, base, adapter=adapter),
        f"# {_plain(folder.name)}\n\nTrained with posttrain {record.get('versions', {}).get('posttrain', '')}: "
        f"{_WHAT.get(command, command)}, from {_code(base)}.",
        "## Load\n\n```python\n" + _loading(folder, command, adapter=adapter) + "\n```",
        "## Data\n\n"
        + _bullets(f"{_code(name)} (sha256 {value!s:.12})" for name, value in record.get("data", {}).items()),
        "## Results\n\n" + _bullets(f"{_plain(name)}: {_number(value)}" for name, value in record["results"].items()),
        f"## Settings\n\n{_again(record)}\n\n{_fenced(settings.strip())}",
    ]
    return "\n\n".join(parts) + "\n"


def _again(record: Mapping[str, Any]) -> str:
    """What running the settings again gives."""
    if "shortage" not in record:
        return "Running them again reproduces this model."
    return (
        "Memory ran out on the way, and micro-batches were halved from there on (`shortage` in `run/run.json`): "
        "running them again gives this model but for rounding."
    )


def _front_matter(command: str, base: str, *, adapter: bool) -> str:
    """The hub's metadata. `base_model` stands there only for hub ids, since the hub refuses local paths."""
    lines = ["---", f"library_name: {'peft' if adapter else 'transformers'}"]
    if reads_like_an_id(base):
        lines.append(f"base_model: {base}")
    return "\n".join([*lines, f"tags: [posttrain, {command}]", "---"])


def _loading(folder: Path, command: str, *, adapter: bool) -> str:
    heads = command in ("reward", "classify")
    kind = "AutoModelForSequenceClassification" if heads else "AutoModelForCausalLM"
    if adapter:
        peft = kind.replace("AutoModel", "AutoPeftModel")
        if heads:
            labels = _labels(folder)
            return (
                f"from peft import {peft}\nfrom transformers import AutoTokenizer\n\n"
                f'model = {peft}.from_pretrained("{folder.name}", num_labels={labels})\n'
                f'model.config.pad_token_id = AutoTokenizer.from_pretrained("{folder.name}").pad_token_id'
            )
        return f'from peft import {peft}\n\nmodel = {peft}.from_pretrained("{folder.name}")'
    return f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("{folder.name}")'


def _labels(folder: Path) -> int:
    """The outputs of a head: those of its labels, or one."""
    card = folder / "classifier.json"
    return len(json.loads(card.read_text(encoding="utf-8"))["labels"]) or 1 if card.is_file() else 1


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "None recorded."


def _number(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{_plain(name)} {_number(part)}" for name, part in cast("Mapping[str, object]", value).items()
        )
    return f"{value:.4g}" if isinstance(value, float) else _plain(str(value))


def _plain(text: str) -> str:
    """Text in which no mark of HTML or Markdown means anything: names come from data."""
    return re.sub(r"([\\`*\[\]<>&#|])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A name in a code span, whatever it holds."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _fenced(settings: str) -> str:
    """YAML between fences that are longer than any in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", settings)), default=0))
    return f"{fence}yaml\n{settings}\n{fence}"
