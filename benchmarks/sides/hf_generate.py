"""The side of `transformers` in generation, in a process of its own: `generate` on one batch, padded on the left.

python -m benchmarks.sides.hf_generate JOB.json

Imports nothing of posttrain.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.frame.generation import useful
from benchmarks.frame.marks import Marks, tell


def main() -> None:
    """Runs the job, and tells what it noted."""
    import torch  # noqa: PLC0415 - only in the process that measures
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job["precision"]]
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype).eval().to(job["device"])
    words = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    batch = words.pad({"input_ids": job["prompts"]}, return_tensors="pt").to(job["device"])
    sampling = {"do_sample": False} if job["greedy"] else {"do_sample": True, "temperature": 1.0, "top_k": 0}
    torch.manual_seed(0)
    marks = Marks(job["device"])
    marks.loaded()
    marks.step()
    lengths: list[list[int]] = []
    tokens: list[list[int]] = []
    for _ in range(1 + job["runs"]):
        made = model.generate(
            **batch, max_new_tokens=job["longest"], num_return_sequences=job["samples"],
            pad_token_id=words.pad_token_id, top_p=1.0, **sampling,
        )  # fmt: skip
        marks.step()
        answers = made[:, batch["input_ids"].shape[1] :].tolist()
        lengths.append([useful(answer, words.eos_token_id) for answer in answers])
        tokens = [answer[:length] for answer, length in zip(answers, lengths[-1], strict=True)]
    tell(marks.facts(lengths=lengths, tokens=tokens if job["greedy"] else []))


if __name__ == "__main__":
    main()
