"""Grouping: heatmaps and tag maps -> people (associative embedding, Newell et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from yacs.config import CfgNode

from lib.codec import REFERENCE, Codec, codec_of
from lib.core.maps import Maps, find_peaks, maps_of, strongest
from lib.keypoints import keypoints_of

TIE = 1e-9  # added to costs to break ties; far below the cost difference of two joints


@dataclass(frozen=True)
class GroupParams:
    """Settings of grouping (TEST.* keys)."""

    joint_order: tuple[int, ...]
    max_people: int = 30
    detection_threshold: float = 0.1
    tag_threshold: float = 1.0
    use_detection_val: bool = True
    ignore_too_much: bool = False
    tag_per_joint: bool = True
    nms_kernel: int = 5
    codec: Codec = REFERENCE

    @property
    def num_joints(self) -> int:
        return len(self.joint_order)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> GroupParams:
        """From TEST.*; the center joint, unless it is ignored, comes first in `joint_order`."""
        test = cfg.TEST
        spec = keypoints_of(cfg, is_train=False)
        if cfg.DATASET.WITH_CENTER and not test.IGNORE_CENTER:
            spec = spec.with_center()
        return cls(
            joint_order=spec.order_index,
            max_people=cfg.DATASET.MAX_NUM_PEOPLE,
            detection_threshold=test.DETECTION_THRESHOLD,
            tag_threshold=test.TAG_THRESHOLD,
            use_detection_val=test.USE_DETECTION_VAL,
            ignore_too_much=test.IGNORE_TOO_MUCH,
            tag_per_joint=cfg.MODEL.TAG_PER_JOINT,
            nms_kernel=test.NMS_KERNEL,
            codec=codec_of(cfg),
        )


class Grouped(NamedTuple):
    """N people in one image; N may be 0."""

    people: np.ndarray  # (N, K, 3 + L): x, y, score, tags of each joint; a missing joint is 0
    scores: list[float]  # of the people
    is_full: bool  # a joint has `max_people` candidates: there may be more people


class HasGroupParams(Protocol):
    """Anything with grouping settings, such as InferenceSettings (lib/core/inference.py)."""

    @property
    def group(self) -> GroupParams: ...


class HeatmapParser:
    """Groups the joints of one image: heatmaps and tag maps -> people in map pixels."""

    def __init__(self, settings: HasGroupParams | CfgNode) -> None:
        """`settings`: an InferenceSettings, or the config as HigherHRNet's callers give it."""
        is_config = isinstance(settings, CfgNode)
        self.params = GroupParams.from_config(settings) if is_config else settings.group

    def parse(
        self, det: Tensor, tag: Tensor, adjust: bool = True, refine: bool = True
    ) -> tuple[list[np.ndarray], list[float]]:
        """[(N, K, 3 + L)] people as x, y, score, tags of each joint, and N scores; N may be 0.

        det: heatmaps (1, K, H, W); tag: tag maps (1, K or 1, H, W, L); both on any device. A
        person's score is the mean over its joints before `refine` adds missing ones.
        """
        people, scores, _ = self.group(maps_of(det[0], tag[0]), adjust, refine)
        return [people], scores

    def group(
        self, maps: Maps, adjust: bool = True, refine: bool = True, min_score: float = 0.0
    ) -> Grouped:
        """People in pixels of `maps`; those below `min_score` are left out.

        ValueError if a heatmap value, or a tag of a candidate, is not finite.
        """
        candidates = find_candidates(maps, self.params, adjust)
        require_finite(maps.total(), *candidates)
        people, scores = with_scores(group_by_tag(candidates, self.params), min_score)
        if refine:
            fill_missing(people, maps, self.params.codec)
        require_finite(people)
        return Grouped(people, scores, is_full(candidates, self.params))


def is_full(candidates: Sequence[np.ndarray], params: GroupParams) -> bool:
    """Whether a joint has as many candidates, (n, 3 + L) each, as `max_people` allows."""
    return max(map(len, candidates)) >= params.max_people


def with_scores(people: np.ndarray, min_score: float) -> tuple[np.ndarray, list[float]]:
    """Those of people (N, K, 3 + L) whose score, the mean over all joints, is not below; scores."""
    scores = people[..., 2].mean(axis=1)
    kept = ~(scores < min_score)  # also those that are not finite, for an error
    return people[kept], scores[kept].tolist()


def require_finite(*parts: np.ndarray) -> None:
    """ValueError if a value in `parts` of a network's maps is not finite."""
    if not all(np.isfinite(part).all() for part in parts):
        raise ValueError(
            "the network's maps are not finite: its weights or its precision are at fault"
        )


def find_candidates(maps: Maps, params: GroupParams, adjust: bool) -> list[np.ndarray]:
    """Peaks of each joint's heatmap, (n, 3 + L): x, y, value, tags; the largest value first.

    There are at most `max_people` per joint, all above the threshold. Equal values are sorted by
    row, then column. x, y are decoded by the codec; without `adjust` they are pixel indices.
    """
    codec = params.codec
    radius = codec.reach(params.nms_kernel // 2)
    pixels = find_peaks(maps, params.detection_threshold, radius)
    windows = maps.windows(pixels)
    best = strongest(pixels, windows[:, 1, 1], params.max_people)
    pixels, windows = pixels.select(best), windows[best]
    xy = np.stack([pixels.x, pixels.y], axis=1)
    xy = xy + codec.offsets(windows) if adjust else xy
    peaks = np.concatenate(
        [xy, windows[:, 1, 1, None], maps.tags(pixels)], axis=1, dtype=np.float32
    )
    ends = np.searchsorted(pixels.joint, np.arange(1, params.num_joints))
    return np.split(peaks, ends)


def group_by_tag(candidates: Sequence[np.ndarray], params: GroupParams) -> np.ndarray:
    """Candidates -> people (N, K, 3 + L): x, y, value, tags; a missing joint is 0.

    candidates: one (n, 3 + L) per joint. Joints are visited in `joint_order`. The candidates of a
    joint are assigned to the existing people at the least total cost, which grows with the distance
    of a candidate's tags to the mean tags of a person. A candidate that is not assigned, or farther
    than `tag_threshold`, starts a new person.

    Example with L = 1: noses with tags 1.0 and 5.0 start two people. Left eyes with tags 1.2, 4.9
    and 9.0 follow: the first two join these people, the third starts a person without a nose.
    """
    slots, width = sum(map(len, candidates)), candidates[0].shape[1]
    people = np.zeros((slots, params.num_joints, width), np.float32)
    tag_sums, counts = np.zeros((slots, width - 3)), np.zeros((slots, 1))
    # As in the original, a person is identified by the first tag value of its first joint. A later
    # candidate that would start a person with exactly this value joins the existing person.
    person_of: dict[float, int] = {}
    for joint in params.joint_order:
        rows = candidates[joint]
        known = min(len(person_of), params.max_people)  # people beyond these get no further joints
        if len(rows) == 0 or (params.ignore_too_much and known == params.max_people):
            continue
        means = tag_sums[:known] / counts[:known]
        distance = np.linalg.norm(rows[:, None, 3:] - means, axis=2)  # (n, known)
        assigned = assign(distance, rows[:, 2], params)
        for row, person in zip(rows, assigned, strict=True):
            if person < 0:
                person = person_of.setdefault(float(row[3]), len(person_of))
                tag_sums[person] = counts[person] = 0  # the mean starts with this joint
            people[person, joint] = row
            tag_sums[person] += row[3:]
            counts[person] += 1
    return people[: len(person_of)]


def assign(distance: np.ndarray, values: np.ndarray, params: GroupParams) -> np.ndarray:
    """Index of the person of each candidate, (n,), at the least total cost; -1: no person.

    distance: (n, N) between tags; values: (n,) of heatmaps, descending; people in the order of
    their first joints.

    The distance is rounded and counts 100 times as much as the value, so distances below 0.5 are
    equal. When several candidates are near several people, many assignments therefore cost the
    same. TIE then assigns the stronger candidate to the earlier person, much like the original's
    solver. Example: two candidates and two people, all closer than 0.5: candidate 0 goes to
    person 0. (Assigning the nearest person instead costs .03 AP with a trained network.)
    """
    cost = np.round(distance) * 100 - values[:, None] if params.use_detection_val else distance
    strength, age = np.arange(len(distance), 0, -1), np.arange(distance.shape[1])
    cost = cost + TIE * strength[:, None] * age
    rows, columns = linear_sum_assignment(cost)
    near = distance[rows, columns] < params.tag_threshold
    person = np.full(len(distance), -1)
    person[rows[near]] = columns[near]
    return person


def fill_missing(people: np.ndarray, maps: Maps, codec: Codec) -> None:
    """Search the missing joints of `people` (N, K, 3 + L) on their heatmaps, in place.

    For a joint that is below the threshold, or was assigned to another person, the best-fitting
    pixel (`best_pixels`) is usually near the true position.
    Example: tags of a person average 3.0 and its right knee is missing. Of two pixels with values
    0.6 and 0.08 and tags 7.1 and 3.2, the second fits better: 0.08 - 0 > 0.6 - 4. The joint is
    set to this pixel if its heatmap value is above 0.
    """
    has = people[..., 2] > 0  # (N, K)
    person, joint = np.nonzero(~has)
    if len(person) == 0:
        return
    # Missing joints have tags 0, so the sum is over those that exist.
    mean = people[..., 3:].sum(axis=1) / has.sum(axis=1, keepdims=True, dtype=np.float32)  # (N, L)
    pixels = maps.best_pixels(joint, mean[person])
    windows = maps.windows(pixels)
    positive = windows[:, 1, 1] > 0
    xy = np.stack([pixels.x, pixels.y], axis=1) + codec.offsets(windows)
    people[person[positive], joint[positive], :2] = xy[positive]
    people[person[positive], joint[positive], 2] = windows[positive, 1, 1]
