"""IDF1 and switches say what became of the ids."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lib.utils import cli
from tools.benchmark.__main__ import main
from tools.benchmark.track import Tracked, score

APART = np.eye(2)  # OKS: each of two people is where one detection is
EITHER = np.ones((2, 2))  # both are where both detections are


def clip(*ids: list[int], oks: np.ndarray = APART) -> list[Tracked]:
    return [Tracked(oks[:, : len(names)], names) for names in ids]


def test_ids_that_stay_are_perfect():
    assert score(clip([7, 3], [7, 3], [7, 3])) == (1, 1, 1, 0, 2)


def test_two_people_who_exchange_their_ids_halfway_have_half():
    assert score(clip([1, 2], [1, 2], [2, 1], [2, 1])) == (1, 0.5, 1, 2, 2)


def test_a_new_id_halfway_is_one_switch():
    assert score(clip([1, 2], [1, 2], [1, 3], [1, 3])) == (1, 0.75, 1, 1, 3)


def test_who_is_not_found_lowers_the_limit_but_is_no_switch():
    found, idf1, limit, switches, _ = score(clip([1, 2], [1], [1], [1, 2]))
    assert (found, switches) == (0.75, 0)
    assert idf1 == limit == pytest.approx(2 * 6 / (8 + 6))


def test_nobody_switches_where_both_detections_fit_both_people():
    assert score(clip([1, 2], [1, 2], oks=EITHER) + clip([2, 1], oks=EITHER)).switches == 0


def test_a_clip_without_detections_has_nothing():
    assert score(clip([], [])) == (0, 0, 0, 0, 0)


def test_people_who_are_found_with_noise_keep_their_ids(capsys):
    main(["track", "--json", "--people", "3", "--seeds", "0", "--size", "160", "120"])
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert row["switches"] == 0
    assert row["ids"] == 3
    assert row["idf1"] == row["limit"] > 0.9


def test_numbers_that_cannot_be_are_one_line(capsys):
    assert cli.code_of(lambda: main(["track", "--frames", "0"])) == cli.MISTAKE
    assert capsys.readouterr().err.count("\n") == 1
