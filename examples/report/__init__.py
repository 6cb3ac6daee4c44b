"""The pictures of the report: pages of a demo's runs in a real browser."""
