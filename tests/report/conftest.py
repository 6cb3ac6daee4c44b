"""What tests of the report's page may ask for: one Chromium for the tests of a file."""

from __future__ import annotations

from browsing import chromium as chromium
