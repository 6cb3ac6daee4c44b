"""Model folders: the cards beside the weights, adapters, tokenizer and template, as far as our own code reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from posttrain.models.adapter_files import holds_score, is_dora, load_adapter, save_adapter
from posttrain.models.adapters import LoraSpec, attach
from posttrain.models.load import base_of, is_adapter, load_causal, load_scalar
from posttrain.recipes.classify import ClassifierCard
from posttrain.recipes.scoring import RewardCard, check_policy
from posttrain.recipes.setup import config_of, context_of
from posttrain.recipes.weights import in_few_bits, weights_of
from posttrain.run.content import model_hash
from posttrain.text.chat import Codec
from posttrain.types import Message, PromptRecord

from .doors import Kind, Told, law
from .mutators import Files
from .small_model import model_folder

MODEL, ADAPTER, TEMPLATE = "m", "adapter", "own.jinja"
_TURNS = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_REWARD = {"shift": 0.5, "scale": 2.0, "score_at": "last"}
_CLASSIFIER = {"task": "classes", "labels": ["bad", "good"]}


@cache
def seeds() -> Sequence[Files]:
    """Cards alone, a tokenizer with a template, an adapter on its base, and a whole model."""
    whole = {f"{MODEL}/{path.name}": path.read_bytes() for path in model_folder().iterdir()}
    words = {name: data for name, data in whole.items() if "token" in name}
    config = {name: data for name, data in whole.items() if name.endswith("config.json") and "token" not in name}
    cards = [
        {f"{MODEL}/{name}": json.dumps(card).encode()}
        for name, card in (("reward.json", _REWARD), ("classifier.json", _CLASSIFIER))
    ]
    adapter = {f"{ADAPTER}/{path.name}": path.read_bytes() for path in _adapter().iterdir()}
    found: list[Files] = [{**config, **card} for card in cards] * 4 + [config] * 2
    found += [{**words, TEMPLATE: _TURNS.encode()}] * 3 + [{**adapter, **config, f"{MODEL}/model.safetensors": b""}] * 4
    return [*found, {**whole, **adapter}, {**whole, **cards[0]}]


@cache
def _adapter() -> Path:
    """The folder of an adapter on the model, which is named by a relative path."""
    loaded = load_causal(str(model_folder()))
    spec = LoraSpec(rank=2, alpha=4.0, targets=("q_proj", "v_proj"), dropout=0.0, seed=0)
    attach(loaded.model, "own", spec)
    folder = model_folder().parent / ADAPTER
    save_adapter(loaded.model, ("own",), folder, base=MODEL)
    return folder


def door(folder: Path, told: Told) -> bool:
    """What a command reads of a model before its weights, then the weights where they are."""
    here = [name for name in (MODEL, ADAPTER) if (folder / name).is_dir()]
    found: list[object] = []
    for name in here:
        found.append(told.attempt(lambda name=name: RewardCard.read(name)))
        found.append(told.attempt(lambda name=name: ClassifierCard.read(name)))
        told.attempt(lambda name=name: check_policy(name))
        base = told.attempt(lambda name=name: base_of(name))
        model_hash(folder / name)
        weights_of(name)
        in_few_bits(name, "4bit")
        if base is not None and Path(base).is_dir():
            told.attempt(lambda name=name: config_of(name), base)
            told.attempt(lambda name=name: context_of(name), base)
    if ADAPTER in here and is_adapter(ADAPTER):
        told.attempt(lambda: (holds_score(Path(ADAPTER)), is_dora(Path(ADAPTER))))
        found.append(told.attempt(lambda: load_adapter(load_causal(str(model_folder())).model, "own", Path(ADAPTER))))
    if MODEL in here and any(path.name.startswith("tokenizer") for path in (folder / MODEL).iterdir()):
        for template in (None, "plain", TEMPLATE):
            found.append(_words(template, told))
    for name in here:
        base = told.attempt(lambda name=name: base_of(name))
        if base is not None and (Path(base) / "config.json").is_file() and _weights(Path(base)):
            found.append(told.attempt(lambda name=name: load_causal(name), base))
            found.append(told.attempt(lambda name=name: load_scalar(name), base))
    return any(each is not None for each in found)


def _weights(folder: Path) -> bool:
    return any(path.stat().st_size for path in folder.glob("*.safetensors"))


def _words(template: str | None, told: Told) -> Codec | None:
    """The tokenizer and a template, and what they make of a question."""
    codec = told.attempt(lambda: Codec.load(MODEL, template=template), "tokenizer", "chat template")
    if codec is not None:
        asked = PromptRecord(id="row", messages=(Message(role="user", content="2+2?"),))
        told.attempt(lambda: codec.prompt(asked), "chat template", "tokenizer")
        law(codec.fingerprint, "no fingerprint")
    return codec


MODELS = Kind(name="models", seeds=seeds, door=door, share=0.5)
