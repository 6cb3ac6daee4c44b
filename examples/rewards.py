"""Rewards that are functions: of prompt and answer, of a column of the row, and one that waits for a service."""

from __future__ import annotations

import asyncio
import re


def short(prompt: str, response: str) -> float:
    """Less for every character: holds a model back that learnt that long answers score well."""
    return -len(response)


def right(response: str, reference: str) -> float:
    """1 where the first number of the answer is the one that the row's column `reference` ends with, else 0."""
    said, wanted = re.search(r"-?\d+", response), re.findall(r"-?\d+", reference)
    return float(said is not None and bool(wanted) and said.group() == wanted[-1])


def ended(stopped: bool) -> float:
    """1 for an answer that ended by itself, 0 for one that was cut."""
    return float(stopped)


async def judged_elsewhere(prompt: str, response: str, *, patience: float = 0.001) -> float:
    """The share of the prompt's words that the answer takes up, as if another program had to be asked for it."""
    await asyncio.sleep(patience)
    words = set(prompt.lower().split())
    return len(words & set(response.lower().split())) / max(1, len(words))
