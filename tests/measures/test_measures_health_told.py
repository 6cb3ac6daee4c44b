"""The table of rules in docs/ppo.md has the rules and the limits of the code."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path

from posttrain.measures import gold, health

ROW = re.compile(r"^\| `(\w+)` \| .+ \| (.+) \| (.+) \|$", re.MULTILINE)


def test_the_page_has_every_rule_with_the_limits_that_it_has(repository: Path) -> None:
    text = (repository / "docs" / "ppo.md").read_text(encoding="utf-8")
    told = {name: limits for name, *limits in ROW.findall(text.partition("### Health in words")[2])}
    rules = {rule.__name__: rule for rule in health.OF_ROUNDS}
    assert told.keys() == {*rules, gold.gold_against_proxy.__name__, gold.proxy_and_judge.__name__}
    for name, rule in rules.items():
        limits = signature(rule).parameters
        for state, said in zip(("watch", "act"), told[name], strict=True):
            assert float(re.findall(r"[\d.]+", said)[0]) == limits[state].default, f"{name}: {state}"
