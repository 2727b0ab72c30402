"""The same people from frame to frame: an id for each, and joints without the jitter.

People are matched by object keypoint similarity (COCO's OKS) with where everybody known should be
by now, and joints are smoothed with the one-euro filter (Casiez, Roussel and Vogel, CHI 2012): slow
ones strongly, fast ones hardly, so that the drawing neither trembles nor lags.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from lib.keypoints import KeypointSpec

MIN_OKS = 0.1  # below it, two people are not the same
PATIENCE = 1.0  # seconds for which somebody may be out of sight and keep the id
AREA = 0.53  # of a person, per area of the box around the joints (CrowdPose's rule)
# The one-euro filter; speeds are in person sizes a second, so that near and far people are alike.
MIN_CUTOFF = 1.0  # Hz, of a joint at rest; higher: less smooth
SPEED_CUTOFF = 1.0  # Hz, of the speeds
BETA = 5.0  # Hz for each size a second; higher: less lag


@dataclass
class Track:
    """Somebody who was seen before."""

    id: int
    joints: np.ndarray  # (K, 3): x, y, score, as found last
    smooth: np.ndarray  # (K, 2): where they are shown
    speed: np.ndarray  # (K, 2): pixels a second
    times: np.ndarray  # (K,): seconds at which each joint was found last; -inf: never
    steps: int = 0  # frames in which they were found again

    @property
    def seen(self) -> float:
        """Seconds at which any joint was found last."""
        return self.times.max()

    def expected(self, seconds: float) -> np.ndarray:
        """(K, 3): the joints moved on together, at their mean speed, until `seconds`."""
        joints = self.joints.copy()
        joints[:, :2] += self.speed[joints[:, 2] > 0].mean(axis=0) * (seconds - self.seen)
        return joints


class Tracker:
    """Ids and smooth joints of the people in one video, frame by frame."""

    def __init__(self, spec: KeypointSpec) -> None:
        self.sigmas = np.array(spec.sigmas)
        self.tracks: list[Track] = []
        self.ids = 0  # given so far

    def update(self, people: np.ndarray, seconds: float) -> tuple[np.ndarray, list[int]]:
        """Smoothed people (N, K, 3) and their N ids, 1 and up in the order of appearance.

        people: (N, K, 3 or more), each with a joint whose score is above 0; scores, and joints
        that were not found, stay as they are. `seconds` grow from frame to frame.
        """
        self.tracks = [track for track in self.tracks if seconds - track.seen <= PATIENCE]
        people = people[..., :3].astype(float)
        expected = [track.expected(seconds) for track in self.tracks]
        known = dict(match(people, expected, self.sigmas))
        found = []
        for i, person in enumerate(people):
            if i in known:
                track = self.tracks[known[i]]
                follow(track, person, seconds)
            else:
                track = self._begin(person, seconds)
            found.append(track)
        smooth = people.copy()
        for person, track in zip(smooth, found, strict=True):
            has = person[:, 2] > 0
            person[has, :2] = track.smooth[has]
        return smooth, [track.id for track in found]

    def _begin(self, person: np.ndarray, seconds: float) -> Track:
        """Somebody new."""
        self.ids += 1
        times = np.where(person[:, 2] > 0, seconds, -np.inf)
        xy = person[:, :2]
        track = Track(self.ids, person, xy.copy(), np.zeros_like(xy), times)
        self.tracks.append(track)
        return track


def match(
    people: np.ndarray, expected: list[np.ndarray], sigmas: np.ndarray
) -> list[tuple[int, int]]:
    """Pairs (person, expected person) of the greatest total similarity; each at most once."""
    if not len(people) or not expected:
        return []
    oks = np.array([[similarity(a, b, sigmas) for b in expected] for a in people])
    oks[oks < MIN_OKS] = 0
    rows, columns = linear_sum_assignment(oks, maximize=True)
    return [(i, j) for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if oks[i, j] > 0]


def similarity(a: np.ndarray, b: np.ndarray, sigmas: np.ndarray) -> float:
    """OKS of two people (K, 3) over the joints that both have, 0 to 1; 0 where there is none."""
    both = (a[:, 2] > 0) & (b[:, 2] > 0)
    if not both.any():
        return 0.0
    squared = np.square(a[both, :2] - b[both, :2]).sum(axis=1)
    area = max(area_of(a), area_of(b))
    return float(np.exp(-squared / (2 * area * np.square(2 * sigmas[both]))).mean())


def area_of(person: np.ndarray) -> float:
    """Square pixels that a person (K, 3) covers, about; at least 1."""
    xy = person[person[:, 2] > 0, :2]
    return max(1.0, AREA * np.prod(np.ptp(xy, axis=0)))


def follow(track: Track, person: np.ndarray, seconds: float) -> None:
    """Let `track` know that it is `person` (K, 3) now: the one-euro filter, joint by joint.

    A joint that was found for the first time is where it was found; one that is missing waits. The
    first speeds are means, until the filter knows as much.
    """
    track.steps += 1
    has = person[:, 2] > 0
    again = has & np.isfinite(track.times)
    first = has & ~again
    past = (seconds - track.times[again])[:, None]
    speed = (person[again, :2] - track.joints[again, :2]) / past
    share = np.maximum(smoothing(SPEED_CUTOFF, past), 1 / track.steps)
    track.speed[again] += share * (speed - track.speed[again])
    sizes = np.linalg.norm(track.speed[again], axis=1, keepdims=True) / area_of(person) ** 0.5
    step = smoothing(MIN_CUTOFF + BETA * sizes, past)
    track.smooth[again] += step * (person[again, :2] - track.smooth[again])
    track.smooth[first] = person[first, :2]
    if again.any():
        track.speed[first] = track.speed[again].mean(axis=0)
    track.joints[:, 2] = person[:, 2]
    track.joints[has] = person[has]
    track.times[has] = seconds


def smoothing(cutoff: np.ndarray | float, past: np.ndarray) -> np.ndarray:
    """The share of a new value in a low-pass filter of `cutoff` Hz, `past` seconds after it."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * past))
