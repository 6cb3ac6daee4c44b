"""vLLM's side of generation, in a process and an environment of its own: its engine as a user starts it on a CPU.

    PEER/bin/python -m benchmarks.sides.vllm_generate JOB.json

Imports nothing of posttrain. The engine runs in this process, so that its memory and CPU time are seen. It takes the
memory of its cache when it is made, so growth counts from before that, less the weights.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks.frame.generation import useful
from benchmarks.frame.marks import Marks, tell

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default is 4
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CONFIGURE_LOGGING": "0",
}


def main() -> None:
    """Runs the job, and tells what it noted."""
    os.environ.update(SETTINGS)
    import torch  # noqa: PLC0415 - of the peer's environment
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[job["precision"]]
    weights = sum(file.stat().st_size for file in Path(job["model"]).glob("*.safetensors"))
    marks = Marks()
    marks.loaded()
    engine = LLM(model=job["model"], dtype=dtype, max_model_len=2048, seed=0, disable_log_stats=True)
    torch.manual_seed(0)
    spec = SamplingParams(
        n=job["samples"], temperature=0.0 if job["greedy"] else 1.0, max_tokens=job["longest"], detokenize=False
    )
    end = engine.get_tokenizer().eos_token_id
    marks.step()
    lengths: list[list[int]] = []
    tokens: list[list[int]] = []
    for _ in range(1 + job["runs"]):
        found = engine.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], spec, use_tqdm=False)
        marks.step()
        tokens = [list(one.token_ids) for request in found for one in request.outputs]
        lengths.append([useful(answer, end) for answer in tokens])
    facts = marks.facts(lengths=lengths, tokens=tokens if job["greedy"] else [])
    tell({**facts, "growth": facts["growth"] - weights // (1 if dtype == "float32" else 2)})


if __name__ == "__main__":
    main()
