"""The cases of generation, the models that answer, and what the answers of a side come to.

All sides read the same model folder and the same prompts as token ids, and sample the full distribution at temperature
1; every side draws its own random numbers, so answers differ and are equal in distribution. Weights are random, so the
next word is nearly uniform and an answer would never end. Where lengths shall be ragged, the folder's weights are
changed so that the end token has one probability at every place (`set_ending`): lengths are then geometric and cut at
the longest, for all sides alike and without a rule of any side's own. Useful tokens are those up to the end token.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import alternate, texts
from benchmarks.frame.alternate import Spread, peer_python, spread
from benchmarks.frame.sizes import Size, write_model

VLLM = "vllm-0.32"
SIDES = {"posttrain": "our_sampler", "HF": "hf_generate", "vLLM": "vllm_generate"}
# The probability of the end token at every place of the ragged case, and the longest answer.
ENDING, LONGEST = 1 / 96, 256


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is asked: `prompts` prompts with `samples` answers each, of `longest` tokens or, `ends`, fewer."""

    prompts: int
    samples: int
    longest: int
    ends: bool = False


CASES = {
    "uniform": Case(prompts=32, samples=1, longest=64),
    "ragged": Case(prompts=64, samples=1, longest=LONGEST, ends=True),
    "group": Case(prompts=1, samples=8, longest=64),
}


# --- what all sides get -----------------------------------------------------------------------------------------------


def prepare(folder: Path, size: Size) -> None:
    """Writes the tokenizer and two models: `model`, and `ending`, whose answers end by themselves."""
    words = folder / "words"
    texts.write_tokenizer(words, vocabulary=size.vocabulary)
    write_model(folder / "model", size, words)
    write_model(folder / "ending", size, words)
    set_ending(folder / "ending", ENDING, prompts_of(words, 8))


def prompts_of(words: Path, count: int) -> list[list[int]]:
    """The ids of `count` questions, each as long as it is; one alone is the longest of the first 64."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - only where a run is prepared

    tokenizer = AutoTokenizer.from_pretrained(words)
    asked = [[{"role": "user", "content": question}] for question, _ in texts.answers()[: max(count, 64)]]
    ids = [tokenizer.apply_chat_template(row, add_generation_prompt=True)["input_ids"] for row in asked]
    return [max(ids, key=len)] if count == 1 else ids[:count]


def set_ending(folder: Path, share: float, prompts: Sequence[Sequence[int]]) -> None:
    """The model of the folder gives its end token about the probability `share` at every place.

    The first channel of the hidden state is made a constant: every embedding has the same entry there and no layer
    writes to it. The head's weight of the end token for that channel is then a bias, chosen from its logits at the
    prompts' last places.
    """
    import torch  # noqa: PLC0415 - only where models are made
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(folder)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    end = model.config.eos_token_id
    with torch.no_grad():
        embedding[:, 0] = 1.0
        if head is not embedding:
            head[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        hidden = torch.stack([model.model(torch.tensor([list(ids)])).last_hidden_state[0, -1] for ids in prompts])
        constant = hidden[:, 0].mean()
        logits = hidden @ head.T
        wanted = math.log(share / (1 - share))
        others = torch.cat([logits[:, :end], logits[:, end + 1 :]], 1).logsumexp(1)
        head[end, 0] += (wanted + others - logits[:, end]).mean() / constant
    model.save_pretrained(folder)


# --- a run of a side --------------------------------------------------------------------------------------------------


def run(
    folder: Path, side: str, case: Case, *, precision: str, runs: int, greedy: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """What a side tells of `runs` times a case after one that is not counted; greedy answers are told whole."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        job = Path(name) / "job.json"
        facts = {"model": str(folder / ("ending" if case.ends else "model")), "precision": precision, "runs": runs}
        facts |= {**asdict(case), "prompts": prompts_of(folder / "words", case.prompts), "greedy": greedy}
        facts |= {"device": device}
        job.write_text(json.dumps(facts), encoding="utf-8")
        words = [f"benchmarks.sides.{SIDES[side]}", job]
        return alternate.run(words, python=peer_python(VLLM)) if side == "vLLM" else alternate.run(words)


# --- what the runs say ------------------------------------------------------------------------------------------------


def useful(tokens: Sequence[int], end: int) -> int:
    """The number of tokens of an answer up to its end token, which counts; what follows is padding."""
    return tokens.index(end) + 1 if end in tokens else len(tokens)


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The measures of a side's processes: each run of each but the first counts."""
    rates: list[float] = []
    cpus: list[float] = []
    lengths: list[int] = []
    for facts in found:
        for seconds, cpu, made in list(zip(facts["seconds"], facts["cpu"], facts["lengths"], strict=True))[1:]:
            rates.append(sum(made) / seconds)
            cpus.append(1000 * cpu / sum(made))
            lengths += made
    return {
        "tokens_per_second": spread(rates),
        "cpu_milliseconds": spread(cpus),
        "growth": spread([facts["growth"] for facts in found]),
        "length": sum(lengths) / len(lengths),
        "longest": max(lengths),
    }


def row_of(case: str, side: str, facts: Mapping[str, Any]) -> dict[str, object]:
    """A side's line of the printed table."""
    mega: Spread = facts["growth"]
    return {
        "case": case,
        "side": side,
        "tokens/s": facts["tokens_per_second"],
        "CPU ms a token": facts["cpu_milliseconds"],
        "growth MB": Spread(median=mega.median / 1e6, least=mega.least / 1e6, most=mega.most / 1e6),
        "tokens an answer": f"{facts['length']:.0f}, at most {facts['longest']}",
    }
