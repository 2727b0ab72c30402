"""Tracking: an id for each person from frame to frame, and keypoints without jitter.

Every known person has a predicted pose: the last one, moved on at the person's mean speed. People
of a new frame are matched with the predictions by object keypoint similarity (COCO's OKS), one to
one, with the greatest total. Keypoints are smoothed by the one-euro filter (Casiez, Roussel and
Vogel, CHI 2012): a low-pass filter whose cutoff rises with the speed, so that people at rest do not
jitter and fast ones do not lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from lib.keypoints import KeypointSpec

MIN_OKS = 0.1  # two people with less are not matched
PATIENCE = 1.0  # seconds for which a hidden person keeps the id
AREA = 0.53  # of a person, as a share of the box around the joints (CrowdPose's rule)
# The one-euro filter. Speeds are in person sizes per second: near and far people behave alike.
MIN_CUTOFF = 1.0  # Hz, of a joint at rest; higher: less smooth
SPEED_CUTOFF = 1.0  # Hz, of the speeds
BETA = 5.0  # Hz for each size per second; higher: less lag


@dataclass
class Track:
    """One known person."""

    id: int
    joints: np.ndarray  # (K, 3): x, y, score, as last detected
    smooth: np.ndarray  # (K, 2): x, y after the filter
    speed: np.ndarray  # (K, 2): pixels per second
    times: np.ndarray  # (K,): seconds at which each joint was last detected; -inf: never
    updates: int = 0  # frames after the first in which the person was detected

    @property
    def last_time(self) -> float:
        """Seconds at which any joint was last detected."""
        return self.times.max()

    def predict(self, seconds: float) -> np.ndarray:
        """(K, 3): the joints at `seconds`, all moved on at their mean speed."""
        joints = self.joints.copy()
        mean_speed = self.speed[joints[:, 2] > 0].mean(axis=0)
        joints[:, :2] += mean_speed * (seconds - self.last_time)
        return joints


class Tracker:
    """Ids and smooth keypoints of the people in one video, frame by frame."""

    def __init__(self, spec: KeypointSpec) -> None:
        self.sigmas = np.array(spec.sigmas)
        self.tracks: list[Track] = []
        self.last_id = 0

    def update(self, people: np.ndarray, seconds: float) -> tuple[np.ndarray, list[int]]:
        """Smoothed people (N, K, 3) and their N ids, from 1 in the order of appearance.

        people: (N, K, 3 or more), each with at least one joint of a score above 0; scores and
        missing joints stay as they are. `seconds` grow from frame to frame.
        """
        self.tracks = [track for track in self.tracks if seconds - track.last_time <= PATIENCE]
        people = people[..., :3].astype(float)
        predictions = [track.predict(seconds) for track in self.tracks]
        matches = match(people, predictions, self.sigmas)
        smooth, ids = people.copy(), []
        for i, person in enumerate(people):
            if i in matches:
                track = self.tracks[matches[i]]
                update_track(track, person, seconds)
            else:
                track = self._start(person, seconds)
            has = person[:, 2] > 0
            smooth[i, has, :2] = track.smooth[has]
            ids.append(track.id)
        return smooth, ids

    def _start(self, person: np.ndarray, seconds: float) -> Track:
        self.last_id += 1
        xy = person[:, :2].copy()
        times = np.where(person[:, 2] > 0, seconds, -np.inf)
        track = Track(self.last_id, person, smooth=xy, speed=np.zeros_like(xy), times=times)
        self.tracks.append(track)
        return track


def match(people: np.ndarray, predictions: list[np.ndarray], sigmas: np.ndarray) -> dict[int, int]:
    """Index of person -> index of prediction, one to one, with the greatest total OKS."""
    if not len(people) or not predictions:
        return {}
    oks = np.array([[similarity(a, b, sigmas) for b in predictions] for a in people])
    oks[oks < MIN_OKS] = 0
    rows, columns = linear_sum_assignment(oks, maximize=True)
    return {i: j for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if oks[i, j] > 0}


def similarity(a: np.ndarray, b: np.ndarray, sigmas: np.ndarray) -> float:
    """OKS of two people (K, 3) over the joints that both have, 0 to 1; 0 where there is none."""
    both = (a[:, 2] > 0) & (b[:, 2] > 0)
    if not both.any():
        return 0.0
    squared = np.square(a[both, :2] - b[both, :2]).sum(axis=1)
    area = max(area_of(a), area_of(b))
    return float(np.exp(-squared / (2 * area * np.square(2 * sigmas[both]))).mean())


def area_of(person: np.ndarray) -> float:
    """Approximate area of a person (K, 3) in square pixels; at least 1."""
    xy = person[person[:, 2] > 0, :2]
    return max(1.0, AREA * np.prod(np.ptp(xy, axis=0)))


def update_track(track: Track, person: np.ndarray, seconds: float) -> None:
    """The one-euro filter: add the detection `person` (K, 3) to `track`, joint by joint."""
    track.updates += 1
    has = person[:, 2] > 0
    again = has & np.isfinite(track.times)  # detected before: filtered
    first = has & ~again  # detected for the first time: taken as it is
    elapsed = (seconds - track.times[again])[:, None]
    # Smooth the speed. The first few speeds are plain means (share 1, 1/2, 1/3, ...).
    speed = (person[again, :2] - track.joints[again, :2]) / elapsed
    share = np.maximum(low_pass(SPEED_CUTOFF, elapsed), 1 / track.updates)
    track.speed[again] += share * (speed - track.speed[again])
    # Smooth the position, the less the faster the joint moves.
    sizes = np.linalg.norm(track.speed[again], axis=1, keepdims=True) / area_of(person) ** 0.5
    share = low_pass(MIN_CUTOFF + BETA * sizes, elapsed)
    track.smooth[again] += share * (person[again, :2] - track.smooth[again])
    track.smooth[first] = person[first, :2]
    if again.any():
        track.speed[first] = track.speed[again].mean(axis=0)
    track.joints[:, 2] = person[:, 2]  # a missing joint keeps its place, with score 0
    track.joints[has] = person[has]
    track.times[has] = seconds


def low_pass(cutoff: np.ndarray | float, elapsed: np.ndarray) -> np.ndarray:
    """The share of a new value in a low-pass filter of `cutoff` Hz, `elapsed` seconds later."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed))
