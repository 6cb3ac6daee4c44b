"""What a page asked and does not get."""

from __future__ import annotations


class Refused(Exception):
    """What a page asked cannot be done: the status of the answer, and why in its words."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
