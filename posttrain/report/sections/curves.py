"""What was logged at every step, as curves: what is trained beside what is held out, and where the run went on."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.report.facts import mapping, steps_of
from posttrain.report.parts import Chart, Folded, Part, Section, Series
from posttrain.report.reading import Read
from posttrain.report.terms import of_metric

HELD_OUT = "eval_"
# Shown at once, as far as there are any; the others are folded.
_FIRST = ("loss", "actor_loss", "critic_loss", "ptx_loss", "accuracy", "margin", "score", "score_greedy", "kl_exact")
_FIRST_OF_REST = ("grad_norm", "grad_norm_actor", "learning_rate", "learning_rate_actor")
_NO_METRICS = ("step", "seconds", "round")


def curves(run: Read) -> Section | None:
    """A chart for each metric, with the held-out one of its name in it."""
    if not run.metrics:
        return None
    places = marks(run)
    charts = {stem: _chart(run, stem, places) for stem in _stems(run)}
    measures = [stem for stem in charts if stem not in (*_FIRST, *_FIRST_OF_REST) and _is_measured(run, stem)]
    shown = [stem for stem in (*_FIRST, *measures, *_FIRST_OF_REST) if stem in charts]
    rest = [charts[stem] for stem in charts if stem not in shown]
    parts: list[Part] = [charts[stem] for stem in shown]
    if rest:
        parts.append(Folded(title=f"All else that was logged ({len(rest)})", parts=rest))
    return Section(id="curves", title="Curves", parts=parts, facts={"steps": len(run.metrics)})


def marks(run: Read) -> dict[float, str]:
    """Steps of a run with a word each: where it went on, where memory ran out, where the best weights are from."""
    places = dict.fromkeys(steps_of(mapping(run.record, "kept", "best")), "best")
    places |= dict.fromkeys(steps_of(run.record.get("shortage")), "less memory")
    return places | dict.fromkeys(steps_of(run.record.get("resumes")), "went on")


def series_of(run: Read, metric: str, name: str) -> Series:
    """A metric over steps; a step that has none is no point, and null, which is no finite number, a gap."""
    rows = [row for row in run.metrics if metric in row]
    return Series(name=name, x=[row["step"] for row in rows], y=[row[metric] for row in rows])


def _stems(run: Read) -> list[str]:
    """The names of metrics in the order in which they came, without what marks them as held out."""
    names = dict.fromkeys(name for row in run.metrics for name in row)
    return [*dict.fromkeys(name.removeprefix(HELD_OUT) for name in names if name not in _NO_METRICS)]


def _is_measured(run: Read, stem: str) -> bool:
    """Whether a metric is one of held-out rows alone, such as the measures of answers."""
    return any(HELD_OUT + stem in row for row in run.metrics) and not any(stem in row for row in run.metrics)


def _chart(run: Read, stem: str, places: dict[float, str]) -> Chart:
    both: Sequence[Series] = [series_of(run, stem, "training"), series_of(run, HELD_OUT + stem, "held out")]
    found = of_metric(stem)
    return Chart(
        id=f"curve-{slug(stem)}",
        title=stem.replace("_", " "),
        series=[series for series in both if series.x],
        marks=places,
        about=found.about if found else "",
        link=found.link if found else "",
    )


def slug(name: str) -> str:
    """A name as an id of the page: letters and digits, all others by their number."""
    return "".join(letter if letter.isascii() and letter.isalnum() else f"-{ord(letter):x}-" for letter in name)
