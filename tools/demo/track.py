"""Tracking: an id for each person from frame to frame, and keypoints without jitter.

Every known person has a predicted pose: the last one, moved on at the person's speed. People of a
new frame are matched with the predictions by object keypoint similarity (COCO's OKS), one to one,
with the greatest total.

Where people cross, a network often mixes their joints: the tags that tell people apart are alike
there. So joints are exchanged among the people of a frame where that fits the predictions better.

Keypoints are smoothed by the one-euro filter (Casiez, Roussel and Vogel, CHI 2012): a low-pass
filter whose cutoff rises with the speed, so that people at rest do not jitter and fast ones do not
lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from lib.keypoints import KeypointSpec

MIN_OKS = 0.1  # two people with less are not matched
MIN_GAIN = 0.3  # of a joint's OKS, for which joints are exchanged
PATIENCE = 2.0  # seconds for which a hidden person keeps the id
MOTION_CUTOFF = 0.3  # Hz, of a person's speed: people walk on, whatever a few frames say
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
    speed: np.ndarray  # (K, 2): of the joints, pixels per second
    motion: np.ndarray  # (2,): of the whole person, pixels per second
    times: np.ndarray  # (K,): seconds at which each joint was last detected; -inf: never
    updates: int = 0  # frames after the first in which the person was detected

    @property
    def last_time(self) -> float:
        """Seconds at which any joint was last detected."""
        return self.times.max()

    def predict(self, seconds: float) -> np.ndarray:
        """(K, 3): the joints at `seconds`, all moved on at the person's speed."""
        joints = self.joints.copy()
        joints[:, :2] += self.motion * (seconds - self.last_time)
        return joints


class Tracker:
    """Ids and smooth keypoints of the people in one video, frame by frame."""

    def __init__(self, spec: KeypointSpec) -> None:
        self.sigmas = np.array(spec.sigmas)
        self.tracks: list[Track] = []
        self.last_id = 0

    def update(self, people: np.ndarray, seconds: float) -> tuple[np.ndarray, list[int]]:
        """Smoothed people (N, K, 3) and their N ids, from 1 in the order of appearance.

        people: (N, K, 3 or more), each with at least one joint of a score above 0. Scores of
        joints stay as they are, also where people exchange joints. `seconds` grow from frame to
        frame.
        """
        self.tracks = [track for track in self.tracks if seconds - track.last_time <= PATIENCE]
        people = people[..., :3].astype(float)
        predictions = np.array([track.predict(seconds) for track in self.tracks])
        matches = match(people, predictions, self.sigmas)
        people = exchange_joints(people, predictions, matches, self.sigmas)
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
        speed, motion = np.zeros_like(xy), np.zeros(2)
        track = Track(self.last_id, person, smooth=xy, speed=speed, motion=motion, times=times)
        self.tracks.append(track)
        return track


def match(people: np.ndarray, predictions: np.ndarray, sigmas: np.ndarray) -> dict[int, int]:
    """Index of person -> index of prediction, one to one, with the greatest total OKS."""
    if not len(people) or not len(predictions):
        return {}
    oks = similarity(people, predictions, sigmas)
    oks[oks < MIN_OKS] = 0
    rows, columns = linear_sum_assignment(oks, maximize=True)
    return {i: j for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if oks[i, j] > 0}


def exchange_joints(
    people: np.ndarray, predictions: np.ndarray, matches: dict[int, int], sigmas: np.ndarray
) -> np.ndarray:
    """`people` (N, K, 3) after an exchange of joints that fits the predictions best.

    For example, two people cross, and the left knee of each is where that of the other is
    predicted: they exchange their left knees. A person without a prediction has nothing to gain,
    but may hold the joints of another one. Somebody who would be left without a joint keeps all.
    """
    if not matches:
        return people
    wanted = np.zeros_like(people)
    wanted[list(matches)] = predictions[list(matches.values())]
    gains = joint_similarity(people, wanted, sigmas)  # (N, N, K): of joint k of i for person j
    gains += MIN_GAIN * np.eye(len(people))[:, :, None]
    exchanged = people.copy()
    for joint in range(people.shape[1]):
        rows, columns = linear_sum_assignment(gains[..., joint], maximize=True)
        exchanged[columns, joint] = people[rows, joint]
    return exchanged if (exchanged[..., 2] > 0).any(axis=1).all() else people


def similarity(people: np.ndarray, others: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """(N, M): OKS of people (N, K, 3) and (M, K, 3) over the joints that both have, 0 to 1."""
    both = (people[:, None, :, 2] > 0) & (others[:, :, 2] > 0)
    return joint_similarity(people, others, sigmas).sum(axis=2) / both.sum(axis=2).clip(min=1)


def joint_similarity(people: np.ndarray, others: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """(N, M, K): OKS of each joint of people (N, K, 3) and (M, K, 3); 0 where one lacks it."""
    both = (people[:, None, :, 2] > 0) & (others[:, :, 2] > 0)
    squared = np.square(people[:, None, :, :2] - others[..., :2]).sum(axis=3)
    areas, other_areas = (np.array([area_of(one) for one in group]) for group in (people, others))
    area = np.maximum(areas[:, None], other_areas)[..., None]
    return np.exp(-squared / (2 * area * np.square(2 * sigmas))) * both


def area_of(person: np.ndarray) -> float:
    """Approximate area of a person (K, 3) in square pixels; at least 1."""
    xy = person[person[:, 2] > 0, :2]
    return max(1.0, AREA * np.prod(np.ptp(xy, axis=0))) if len(xy) else 1.0


def update_track(track: Track, person: np.ndarray, seconds: float) -> None:
    """The one-euro filter: add the detection `person` (K, 3) to `track`, joint by joint."""
    track.updates += 1
    has = person[:, 2] > 0
    update_motion(track, person, seconds - track.last_time)
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


def update_motion(track: Track, person: np.ndarray, elapsed: float) -> None:
    """Smooth the speed of the whole person, from the joints of `person` and of the last frame.

    It is the median of the joints' speeds, as a few of them may be those of somebody else.
    """
    both = (person[:, 2] > 0) & (track.joints[:, 2] > 0)
    if both.any():
        motion = np.median(person[both, :2] - track.joints[both, :2], axis=0) / elapsed
        share = np.maximum(low_pass(MOTION_CUTOFF, np.array(elapsed)), 1 / track.updates)
        track.motion += share * (motion - track.motion)


def low_pass(cutoff: np.ndarray | float, elapsed: np.ndarray) -> np.ndarray:
    """The share of a new value in a low-pass filter of `cutoff` Hz, `elapsed` seconds later."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed))
