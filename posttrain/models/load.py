"""Model folders in and out: base weights or an adapter, a causal model or a scalar one; and no pickle, ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from posttrain.errors import ModelError
from posttrain.hub import check_model_name, from_hub, in_our_words
from posttrain.models import adapter_files
from posttrain.models.adapters import adapter_parameters
from posttrain.models.attention import IMPLEMENTATION, register
from posttrain.models.cards import facts_in
from posttrain.models.checked import check_shards, mismatches_told, shape_of
from posttrain.models.heads import ScalarModel
from posttrain.models.precision import in_float32, into_bf16
from posttrain.models.quantize import Bits, into_few_bits

START = "start"
SCORE = "score.safetensors"
REWARD_CARD = "reward.json"
CLASSIFIER_CARD = "classifier.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A causal model in memory. `stack` is the start model's own adapters; `base` names the weights beneath them.

    `own_attention` is the implementation that the family would have used; `model` attends by layouts where it can.
    """

    model: PreTrainedModel
    stack: tuple[str, ...]
    base: str
    own_attention: str
    path: str


def load_causal(path: str, *, device: torch.device | str = "cpu", quantize: Bits | None = None) -> Loaded:
    """A causal language model in float32 from a folder, a run folder or a hub id, with dropout off.

    With `quantize` its linear layers are in few bits, each as soon as it can be; adapters stay in float32.
    Raises ModelError when there is no such model, when it has no weights in safetensors, or when weights are missing.
    """
    base = base_of(path)
    model = _from_pretrained(AutoModelForCausalLM, base, quantize, device)
    stack: tuple[str, ...] = ()
    if is_adapter(path):
        adapter_files.load_adapter(model, START, Path(path))
        stack = (START,)
    own = _prepare(model, device)
    return Loaded(model=model, stack=stack, base=base, own_attention=own, path=path)


def load_scalar(
    path: str,
    *,
    device: torch.device | str = "cpu",
    quantize: Bits | None = None,
    bf16: bool = False,
    trained: bool = False,
) -> tuple[ScalarModel, str]:
    """The reward model, critic or classifier of a folder that we wrote, and the attention its family would have used.

    With `bf16` the backbone's weights are rounded, and where all are to be `trained` their float32 values are kept.
    Raises ModelError when the folder holds no score head.
    """
    base = base_of(path)
    backbone = _from_pretrained(AutoModel, base, quantize, device)
    stack: tuple[str, ...] = ()
    if is_adapter(path):
        weight = adapter_files.load_adapter(backbone, START, Path(path), prefix=_prefix(backbone))
        stack = (START,)
    else:
        weight = _score_weight(path)
    if weight is None:
        raise ModelError(
            f"{path} has no score head: it is not a reward model\n  fix: train one with `posttrain reward`"
        )
    width = cast("int", backbone.config.get_text_config().hidden_size)
    if weight.dim() != 2 or weight.shape[1] != width:
        raise ModelError(f"{path}: score.weight has shape {tuple(weight.shape)}, the model needs (1, {width})")
    own = _prepare(backbone, device)
    if bf16:
        into_bf16(backbone, trained=trained)
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float32)
    head.weight.data.copy_(weight)
    return ScalarModel(backbone, head.to(device), stack=stack), own


def base_of(path: str, *, above: tuple[str, ...] = ()) -> str:
    """The folder or hub id of the full weights: the path itself, or what its adapter was trained on.

    `above` are the adapters that have led here. Raises ModelError for a folder that is no model folder, a name that is
    neither a folder nor `owner/name`, and adapters that stand on each other.
    """
    folder = Path(path)
    check_model_name(path)
    if not folder.is_dir():
        return path
    if is_adapter(path):
        base = facts_in(folder / adapter_files.CONFIG, {"base_model_name_or_path": str})["base_model_name_or_path"]
        ours = str(folder.resolve())
        if ours in above:
            raise ModelError(
                f"{path} is an adapter that stands on itself\n  fix: write the base's path into its config"
            )
        try:
            return base_of(base, above=(*above, ours))
        except ModelError as error:
            raise ModelError(f"{path} is an adapter, and its base cannot be used: {error}") from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"{path} is not a model folder: it has no config.json\n  fix: give {_models_in(folder)}")
    if not any(folder.glob("*.safetensors")):
        found = sorted(file.name for file in folder.glob("*.bin"))
        why = f"only {found[0]}, and pickles are never loaded" if found else "no *.safetensors file"
        raise ModelError(
            f"{path} has no weights: {why}\n  fix: save the model again with safetensors, or give another folder"
        )
    return str(folder.resolve())


def _models_in(folder: Path) -> str:
    """What to give in the place of a folder that is no model: the first models that it holds, such as its runs."""
    found = sorted(
        str(file.parent) for name in ("config.json", adapter_files.CONFIG) for file in folder.glob(f"*/{name}")
    )
    more = " …" if len(found) > 3 else ""
    return f"one of the models in it: {', '.join(found[:3])}{more}" if found else "a Hugging Face folder"


def is_adapter(path: str) -> bool:
    """True for a folder that holds an adapter against some base."""
    return (Path(path) / adapter_files.CONFIG).is_file()


def is_reward_model(path: str) -> bool:
    """True for a folder that `posttrain reward` wrote."""
    return (Path(path) / REWARD_CARD).is_file()


def is_classifier(path: str) -> bool:
    """True for a folder that `posttrain classify` wrote."""
    return (Path(path) / CLASSIFIER_CARD).is_file()


def _from_pretrained(kind: type[Any], base: str, quantize: Bits | None, device: torch.device | str) -> PreTrainedModel:
    """The model in float32, or its layers in few bits, made of the weights as they are stored: that saves memory."""
    model = _read(kind, base, torch.float32 if quantize is None else "auto")
    if quantize is not None:
        into_few_bits(model, quantize, device)
        model.float()
    return model


def _read(kind: type[Any], base: str, dtype: torch.dtype | str) -> PreTrainedModel:
    load = cast("Callable[..., tuple[PreTrainedModel, dict[str, Any]]]", kind.from_pretrained)
    shape_of(base)
    check_shards(Path(base))
    with in_our_words(base, f"{base} cannot be loaded"), from_hub(base), mismatches_told(base):
        model, info = load(base, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{base}: {len(missing)} weights are missing and would be random, first {missing[0]}")
    broken = sorted(str(name) for name in info.get("mismatched_keys", ()))
    if broken:
        raise ModelError(f"{base}: {len(broken)} weights have the wrong shape, first {broken[0]}")
    return model


def _prepare(model: PreTrainedModel, device: torch.device | str) -> str:
    """Moves the model, turns dropout off, lets it attend by layouts; the implementation that it had."""
    register()
    own = str(getattr(model.config, "_attn_implementation", "eager"))
    silence_dropout(model)
    model.set_attn_implementation(IMPLEMENTATION)
    model.to(device)  # pyright: ignore[reportArgumentType]  # transformers narrows `to` to its own overloads
    model.eval()
    model.requires_grad_(False)
    return own


def silence_dropout(model: PreTrainedModel) -> None:
    """Every dropout of the model is 0, also where its attention reads the probability from an attribute."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def context_length(config: PretrainedConfig) -> int:
    """The longest sequence that the positions of a model allow; a million where its config does not say."""
    text = config.get_text_config()
    found = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    return int(found) if found else 1_000_000


def _prefix(backbone: PreTrainedModel) -> str:
    return f"{backbone.base_model_prefix}." if backbone.base_model_prefix else ""


def reward_card(path: str) -> Path | None:
    """The file with the shift and scale of a reward model, in a folder or of the hub; None where there is none."""
    folder = Path(path)
    if folder.is_dir():
        return folder / REWARD_CARD if (folder / REWARD_CARD).is_file() else None
    with from_hub(path):
        try:
            return Path(hf_hub_download(path, REWARD_CARD))
        except EntryNotFoundError:
            return None


def scores_alone(path: str) -> bool:
    """True for a classifier with one output, of whoever: its `score` head reads an answer's last token."""
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        return False
    config = shape_of(path)
    kinds: list[str] = config.architectures or []
    return config.num_labels == 1 and any(kind.endswith("ForSequenceClassification") for kind in kinds)


def _score_weight(path: str) -> Tensor | None:
    folder = path
    if not Path(path).is_dir():
        with from_hub(path):
            folder = snapshot_download(path, allow_patterns=["*.safetensors"])
    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:  # pyright: ignore[reportUnknownVariableType]
                if "score.weight" in tensors.keys():  # noqa: SIM118  # safe_open is no mapping
                    return cast("Tensor", tensors.get_tensor("score.weight"))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read: {error}\n  fix: copy the folder again") from error
    return None


def save_causal(loaded: Loaded, stack: tuple[str, ...], folder: Path, *, stop_ids: frozenset[int]) -> None:
    """Writes the model with `stack` active: an adapter against its base when there is a stack, else all weights.

    Weights are written in float32, those in bfloat16 as their masters are. `generation_config.json` stops on every id
    of `stop_ids`. Raises FileExistsError never: the folder is the caller's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with in_float32(_written(loaded.model, stack), whole=True):
        if stack:
            adapter_files.save_adapter(loaded.model, stack, folder, base=loaded.base)
        else:
            loaded.model.save_pretrained(folder)
    generation = GenerationConfig.from_model_config(loaded.model.config)
    generation.eos_token_id = sorted(stop_ids)
    generation.save_pretrained(folder)


def _written(model: PreTrainedModel, stack: Sequence[str]) -> list[nn.Parameter]:
    """The parameters that go into a folder: of the stack where there is one, else all."""
    return [part for name in stack for part in adapter_parameters(model, name)] if stack else [*model.parameters()]


def save_scalar(
    scalar: ScalarModel, folder: Path, *, base: str, pad_id: int, task: str = "", names: Sequence[str] = ()
) -> None:
    """Writes backbone and head so that `AutoModelForSequenceClassification` gives the same raw scores.

    With a stack the folder is an adapter with the head as a saved module. Architectures without that class get the
    backbone and `score.safetensors`. `pad_id` must differ from the end of turn, which that class pools at. `task` and
    `names` are what the outputs are where they are no scores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backbone = scalar.model
    with in_float32(_written(backbone, scalar.stack), whole=True):
        _save_scalar(scalar, folder, base=base, pad_id=pad_id, task=task, names=names)


def _save_scalar(scalar: ScalarModel, folder: Path, *, base: str, pad_id: int, task: str, names: Sequence[str]) -> None:
    backbone = scalar.model
    if scalar.stack:
        prefix, weight = _prefix(backbone), scalar.score.weight
        adapter_files.save_adapter(backbone, scalar.stack, folder, base=base, prefix=prefix, score=weight)
        return
    config = backbone.config
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None:
        backbone.save_pretrained(folder)
        from_torch = {"score.weight": scalar.score.weight.detach().cpu().contiguous()}
        save_file(from_torch, folder / SCORE)
        return
    copied = deepcopy(config)
    copied.num_labels, copied.pad_token_id = scalar.score.out_features, pad_id
    if task:
        copied.problem_type = "single_label_classification" if names else "regression"
    if names:
        copied.id2label, copied.label2id = dict(enumerate(names)), {name: place for place, name in enumerate(names)}
    with torch.device("meta"):
        shell = cast("type[PreTrainedModel]", kind)(copied)
    setattr(shell, shell.base_model_prefix, backbone)
    shell.score = scalar.score
    shell.save_pretrained(folder)
