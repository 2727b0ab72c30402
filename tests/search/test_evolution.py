"""The search finds the best, pays for nothing twice, and survives being killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib.search.evolution import Candidate, Evolution, Search, best, pareto_front
from lib.utils.journal import Journal
from tests.search.spaces import Line, separable, total

SHORT = Evolution(generations=8, population=10, parents=4, mutation=0.2)
BUDGET = SHORT.generations * SHORT.population


def search_in(folder: Path, limit=1e9, seed=0, score=separable, space=None, name="j") -> Search:
    journal = Journal(folder / f"{name}.jsonl", {"seed": seed, "limit": limit})

    def scores(archs):
        return map(score, archs)

    return Search(space or Line(), total, scores, {"gmacs": limit}, journal, seed)


def test_the_best_of_a_separable_space_is_reached(tmp_path):
    candidates = search_in(tmp_path, space=Line(5, 4)).evolve(Evolution(20, 20, 5, 0.2))
    assert best(candidates).arch == (3, 3, 3, 3, 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_evolution_is_at_least_as_good_as_as_many_random_candidates(tmp_path, seed):
    evolved = search_in(tmp_path, 14, seed).evolve(SHORT)
    sampled = search_in(tmp_path, 14, seed, name="random").sample_random(BUDGET)
    assert len(evolved) == len(sampled) == BUDGET
    assert best(evolved).score >= best(sampled).score


def test_children_leave_no_room_below_the_limit_for_one_more(tmp_path):
    """The limit falls between two costs here, and random candidates use less of it."""
    candidates = search_in(tmp_path, 14.5).evolve(SHORT)
    children = [one for one in candidates if one.generation > 0]
    assert {one.costs["gmacs"] for one in children} == {14}
    assert any(one.costs["gmacs"] < 14 for one in candidates)


def test_nothing_is_above_the_limit_or_scored_twice(tmp_path):
    scored = []
    search = search_in(tmp_path, 12, score=lambda arch: scored.append(arch) or separable(arch))
    candidates = search.evolve(SHORT)
    assert all(one.costs["gmacs"] <= 12 for one in candidates)
    assert [one.arch for one in candidates] == scored
    assert len(set(scored)) == len(scored) == BUDGET


def test_the_same_seed_is_the_same_search_and_another_is_not(tmp_path):
    a, b, c = (
        search_in(tmp_path, seed=seed, name=name).evolve(SHORT)
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert a == b
    assert [one.arch for one in a] != [one.arch for one in c]


def test_more_generations_go_on_from_fewer(tmp_path):
    few = search_in(tmp_path).evolve(Evolution(3, 10, 4, 0.2))
    many = search_in(tmp_path).evolve(SHORT)
    assert many[: len(few)] == few


def test_a_killed_search_comes_to_the_same_result(tmp_path):
    """Whatever part of the journal is on the disk, half a line included."""
    whole = search_in(tmp_path, 14).evolve(SHORT)
    text = (tmp_path / "j.jsonl").read_bytes()
    for length in (0, 5, len(text) // 3, len(text) // 2, len(text) - 7, len(text) - 1, len(text)):
        (tmp_path / "j.jsonl").write_bytes(text[:length])
        scored = []
        again = search_in(tmp_path, 14, score=lambda a, s=scored: s.append(a) or separable(a))
        assert again.evolve(SHORT) == whole
        kept = max(0, text[:length].count(b"\n") - 1)
        assert len(scored) == BUDGET - kept
        assert (tmp_path / "j.jsonl").read_bytes() == text


def test_a_small_space_is_searched_completely(tmp_path):
    candidates = search_in(tmp_path, space=Line(2, 3)).evolve(SHORT)
    assert len(candidates) == len({one.arch for one in candidates}) == 9


def test_a_limit_that_leaves_little_is_searched_completely(tmp_path):
    """Thirteen of 5 ** 12 architectures are sampled below it far too rarely."""
    space = Line(12, 5)
    candidates = search_in(tmp_path, 1, space=space).evolve(SHORT)
    assert best(candidates).arch == (*[0] * 11, 1)
    assert len(candidates) == 13


def test_an_impossible_limit_is_refused_with_the_smallest_cost(tmp_path):
    search = search_in(tmp_path, 2)
    search.costs = lambda arch: {"gmacs": 3.25 + sum(arch)}
    with pytest.raises(ValueError, match=r"limit on gmacs is 2, the smallest found 3\.25"):
        search.evolve(SHORT)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_is_above_0(tmp_path, limit):
    with pytest.raises(ValueError, match="limit on gmacs"):
        search_in(tmp_path, limit)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 0}, "population is 0; at least 1"),
        ({"parents": 0}, "parents is 0"),
        ({"generations": 0}, "generations is 0"),
        ({"mutation": 0.0}, "mutation is 0.0; a probability"),
        ({"mutation": 1.5}, "mutation is 1.5"),
    ],
)
def test_settings_of_an_evolution_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Evolution(**settings)


def test_the_front_is_what_nobody_beats():
    points = [(3, 0.5), (1, 0.2), (2, 0.6), (2, 0.4), (4, 0.6), (5, 0.7)]
    candidates = [Candidate(p, {"gmacs": p[0]}, p[1], 0) for p in points]
    assert [one.arch for one in pareto_front(candidates, "gmacs")] == [(1, 0.2), (2, 0.6), (5, 0.7)]


# --- the journal ------------------------------------------------------------------------


def test_what_was_written_is_read_again(tmp_path):
    journal = Journal(tmp_path / "j.jsonl", {"seed": 0, "size": (1, 2)})
    journal.add((1, 2), score=0.1 + 0.2, costs={"gmacs": 1 / 3})
    again = Journal(tmp_path / "j.jsonl", {"seed": 0, "size": (1, 2)})
    assert again.entries == {(1, 2): {"key": [1, 2], "score": 0.1 + 0.2, "costs": {"gmacs": 1 / 3}}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"seed": 1, "limits": {"gmacs": 2}}, "its seed is 0, not 1"),
        ({"seed": 0, "limits": {"gmacs": 3}}, r"its limits\.gmacs is 2, not 3"),
        ({"seed": 0}, r"its limits\.gmacs is 2, not null"),
    ],
)
def test_a_journal_of_another_run_is_refused_by_name(tmp_path, header, message):
    Journal(tmp_path / "j.jsonl", {"seed": 0, "limits": {"gmacs": 2}})
    with pytest.raises(ValueError, match=f"of another run: {message}"):
        Journal(tmp_path / "j.jsonl", header)


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"score": 1}'])
def test_a_damaged_line_is_refused(tmp_path, line):
    path = tmp_path / "j.jsonl"
    Journal(path, {"seed": 0})
    path.write_text(path.read_text() + line + "\n" + json.dumps({"key": [1]}) + "\n")
    with pytest.raises(ValueError, match="line 2: not"):
        Journal(path, {"seed": 0})
