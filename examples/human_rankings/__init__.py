"""A reward model on real rankings, cross-validated; `python -m examples.human_rankings.run --help`."""
