"""Worked examples: one YAML file a method, and whole pipelines on real weights and text."""
