"""The whole pipeline on a real model and real stories; `python -m examples.stories.run --help`."""
