"""Secrets: text that nobody guesses."""

from __future__ import annotations

import secrets

_BYTES = 24  # 192 bits: not to be guessed


def new_secret() -> str:
    """Text that nobody guesses, fit for addresses and cookies."""
    return secrets.token_urlsafe(_BYTES)
