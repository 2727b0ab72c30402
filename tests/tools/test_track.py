"""Everybody keeps one id, and joints tremble less without lagging behind."""

from __future__ import annotations

import numpy as np
import pytest

from lib.dataset.synthetic.people import ROW
from lib.keypoints import COCO, CROWD_POSE
from tools.demo.track import PATIENCE, Tracker, similarity
from tools.make_clip import walk

RATE = 25.0


def person(x: float, y: float = 100.0, size: float = 100.0, seed: int = 0) -> np.ndarray:
    """(17, 3): somebody around (x, y), `size` pixels tall, all joints found."""
    pose = np.random.default_rng(seed).uniform(-0.5, 0.5, (17, 2)) * (0.4, 1)
    return np.column_stack([pose * size + (x, y), np.full(17, 0.9)])


def crowd(*people: np.ndarray) -> np.ndarray:
    return np.array(people).reshape(-1, 17, 3)


def ids_of(frames: list[np.ndarray]) -> list[list[int]]:
    tracker = Tracker(COCO)
    return [tracker.update(people, i / RATE)[1] for i, people in enumerate(frames)]


@pytest.mark.parametrize("seed", [0, 1], ids=["of one pose", "of two poses"])
def test_ids_stay_with_people_that_cross(seed):
    ways = [(20 + 4 * i, 220 - 4 * i) for i in range(51)]  # they meet in one place at frame 25
    frames = [crowd(person(a), person(b, seed=seed)) for a, b in ways]
    assert ids_of(frames) == [[1, 2]] * 51


def test_ids_do_not_depend_on_the_order_of_a_frame():
    frames = [crowd(person(50), person(200, seed=1)), crowd(person(200, seed=1), person(50))] * 3
    assert ids_of(frames) == [[1, 2], [2, 1]] * 3


def test_whoever_was_hidden_for_a_moment_is_known_again_where_the_walk_has_led():
    frames = [crowd(person(20 + 4 * i)) for i in range(40)]
    frames[20:30] = [crowd()] * 10
    assert ids_of(frames) == [[1]] * 20 + [[]] * 10 + [[1]] * 10


def test_whoever_comes_after_somebody_has_left_is_another_one():
    away = round(PATIENCE * RATE) + 2
    frames = [crowd(person(50))] * 5 + [crowd()] * away + [crowd(person(50))] * 2
    assert ids_of(frames) == [[1]] * 5 + [[]] * away + [[2]] * 2


def test_whoever_comes_elsewhere_at_once_is_another_one():
    frames = [crowd(person(50))] * 5 + [crowd(person(250))] * 2
    assert ids_of(frames) == [[1]] * 5 + [[2]] * 2


def test_an_id_is_never_given_twice():
    away = round(PATIENCE * RATE) + 2
    frames = ([crowd(person(50), person(200))] + [crowd()] * away) * 3
    seen = [own for ids in ids_of(frames) for own in ids]
    assert seen == [1, 2, 3, 4, 5, 6]


def test_two_people_in_one_place_are_two():
    assert ids_of([crowd(person(50), person(50))] * 3) == [[1, 2]] * 3


def test_an_empty_frame_gives_nobody():
    people, ids = Tracker(COCO).update(np.zeros((0, 17, 3)), 0.0)
    assert people.shape == (0, 17, 3)
    assert ids == []


def test_scores_and_missing_joints_stay_as_they_are():
    tracker, moved = Tracker(COCO), person(54)
    moved[3] = 0
    moved[4, 2] = 0.3
    tracker.update(crowd(person(50)), 0.0)
    before = moved.copy()
    [smooth], _ = tracker.update(crowd(moved), 0.04)
    assert (smooth[:, 2] == moved[:, 2]).all()
    assert (smooth[3] == 0).all()
    assert (moved == before).all()


def test_a_joint_that_comes_back_is_where_it_is_and_not_where_it_was():
    tracker = Tracker(COCO)
    for i in range(30):
        seen = person(20 + 4 * i)
        if 5 <= i < 25:
            seen[7] = 0
        [smooth], _ = tracker.update(crowd(seen), i / RATE)
        if i >= 25:
            assert np.abs(smooth[7, :2] - seen[7, :2]).max() < 4


def test_the_first_frame_is_as_it_was_found():
    found = crowd(person(50), person(200))
    assert (Tracker(COCO).update(found, 3.0)[0] == found).all()


def test_somebody_at_rest_trembles_less_than_half_as_much():
    rng, tracker, still = np.random.default_rng(0), Tracker(COCO), person(100)
    errors = []
    for i in range(100):
        found = still.copy()
        found[:, :2] += rng.normal(0, 1, (17, 2))
        [smooth], _ = tracker.update(crowd(found), i / RATE)
        errors.append([np.std(seen[:, :2] - still[:, :2]) for seen in (found, smooth)])
    found, smooth = np.mean(errors[10:], axis=0)
    assert smooth < found / 2


def test_somebody_who_walks_is_rendered_within_a_twentieth_of_the_size_of_the_body():
    tracker = Tracker(COCO)
    for i in range(100):
        found = person(4 * i)  # as many pixels as the body is tall, in a second
        [smooth], _ = tracker.update(crowd(found), i / RATE)
        assert np.abs(smooth - found).max() < 100 / 20


def test_near_and_far_people_are_smoothed_alike():
    near, far = Tracker(COCO), Tracker(COCO)
    rng = np.random.default_rng(0)
    for i in range(20):
        found = person(4 * i, size=200)
        found[:, :2] += rng.normal(0, 2, (17, 2))
        small = found * (0.5, 0.5, 1)
        [one], _ = near.update(crowd(found), i / RATE)
        [other], _ = far.update(crowd(small), i / RATE)
        np.testing.assert_allclose(one * (0.5, 0.5, 1), other, atol=1e-9)


def test_rendered_people_who_walk_past_one_another_keep_their_ids():
    rows = [ROW[name] for name in CROWD_POSE.joints]
    tracker, rng = Tracker(CROWD_POSE), np.random.default_rng(0)
    for i, (_, points) in enumerate(walk(0, people=4, size=(160, 120), count=100)):
        people = np.dstack([points[:, rows, :2], np.ones((4, len(rows)))])
        people[..., :2] += rng.normal(0, 0.5, (4, len(rows), 2))
        order = rng.permutation(4) if i else np.arange(4)
        assert tracker.update(people[order], i / RATE)[1] == (order + 1).tolist()


def test_similarity_is_one_for_the_same_person_and_falls_with_the_distance():
    others = crowd(*(person(100 + far) for far in (0, 5, 10, 20, 200)))
    [values] = similarity(crowd(person(100)), others, np.array(COCO.sigmas)).tolist()
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.01


def test_people_without_a_joint_in_common_are_not_similar():
    one, other = person(100), person(100)
    one[:8], other[8:] = 0, 0
    assert similarity(crowd(one), crowd(other), np.array(COCO.sigmas)) == 0


def test_joints_that_the_network_mixed_go_back_to_their_people():
    tracker = Tracker(COCO)
    for i in range(10):
        one, other = person(20 + 4 * i), person(150 - 4 * i, seed=1)
        mixed = crowd(one, other)
        if i == 9:
            mixed[:, 5:9] = mixed[::-1, 5:9]
        smooth, ids = tracker.update(mixed, i / RATE)
    assert ids == [1, 2]
    assert np.abs(smooth - crowd(one, other)).max() < 4


def test_a_joint_of_one_person_does_not_fill_the_gap_of_another():
    tracker = Tracker(COCO)
    tracker.update(crowd(person(50), person(60)), 0.0)
    found = crowd(person(50), person(60))
    found[1, 7] = 0
    smooth, _ = tracker.update(found, 1 / RATE)
    assert (smooth[..., 2] == found[..., 2]).all()


def test_somebody_who_is_hidden_while_another_one_passes_is_known_again():
    frames = []
    for i in range(75):
        away, near = person(20 + 3 * i), person(245 - 3 * i, seed=1)
        frames.append(crowd(near) if 22 <= i < 53 else crowd(near, away))
    assert ids_of(frames)[-1] == [1, 2]
