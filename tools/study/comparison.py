"""Trainings compared with a plain one, seed by seed: tables and a figure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lib.utils.plots import paired
from lib.utils.tables import markdown
from tools.study.runs import differences, mean_and_spread
from tools.study.score import PASSES

PLAIN = "paper"  # the training that all others are compared with

Scores = Mapping[str, Mapping[str, float]]  # test set -> passes -> AP
Results = Mapping[str, Mapping[int, Scores]]  # training -> seed
AP = Mapping[str, Mapping[int, float]]  # training -> seed


def tables(results: Results) -> str:
    """A table for each test set, after one of their mean AP if there are several."""
    first = next(iter(results[PLAIN].values()))
    groups = {name: [name] for name in first}
    if len(groups) > 1:
        groups = {f"Mean of {', '.join(first)}": list(first), **groups}
    return "\n\n".join(f"{title}:\n\n{table(results, sets)}" for title, sets in groups.items())


def table(results: Results, sets: Sequence[str]) -> str:
    """A row for each training: mean AP over `sets` by passes, and what differs from `PLAIN`.

    Differences are those of the same seed: their mean, the smallest and the largest. The last
    column is the gain of the flip test.
    """
    columns = {passes: mean_ap(results, sets, passes) for passes in PASSES}
    one, flip = columns.values()
    rows = []
    for name, runs in results.items():
        cells = [name, str(len(runs))]
        for ap in columns.values():
            pairs = paired_seeds(ap, name)
            change = differences(*zip(*pairs, strict=True)) if pairs and name != PLAIN else ""
            cells += [mean_and_spread(list(ap[name].values())), change]
        gains = [flip[name][seed] - one[name][seed] for seed in runs]
        rows.append([*cells, f"{statistics.mean(gains):+.3f}"])
    head = ["training", "seeds"]
    for passes in columns:
        head += [passes, f"compared with {PLAIN}"]
    return markdown([*head, "gain of the flip test"], rows)


def mean_ap(results: Results, sets: Sequence[str], passes: str) -> AP:
    """The mean AP over test sets of every run."""
    return {
        name: {
            seed: statistics.mean(scores[one][passes] for one in sets)
            for seed, scores in runs.items()
        }
        for name, runs in results.items()
    }


def paired_seeds(ap: AP, name: str) -> list[tuple[float, float]]:
    """(AP of `name`, AP of `PLAIN`) of each seed that both have."""
    return [(value, ap[PLAIN][seed]) for seed, value in ap[name].items() if seed in ap[PLAIN]]


def figure(results: Results) -> Figure:
    """Differences to `PLAIN` in one pass, of the mean AP over all test sets."""
    first = next(iter(results[PLAIN].values()))
    passes = next(iter(PASSES))
    ap = mean_ap(results, list(first), passes)
    series = {
        name: [value - other for value, other in paired_seeds(ap, name)]
        for name in results
        if name != PLAIN
    }
    spread = max(ap[PLAIN].values()) - min(ap[PLAIN].values())
    label = f"AP, {passes}, minus that of {PLAIN!r} with the same seed"
    return paired({name: values for name, values in series.items() if values}, spread, label)
