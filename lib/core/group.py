"""From heatmaps and tags to people (Newell et al. 2017; paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from yacs.config import CfgNode

from lib.codec import REFERENCE, Codec, codec_of
from lib.core.maps import DeviceMaps, HostMaps, first_of_equals, maps_of, strongest
from lib.keypoints import keypoints_of

TIE = 1e-9  # far below what tells two joints apart; decides where costs are equal


@dataclass(frozen=True)
class GroupParams:
    """How joints become people (TEST.* keys)."""

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
        """The center joint, where it is not ignored, is visited first."""
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


class HasGroupParams(Protocol):
    """An InferenceSettings, say (lib/core/inference.py)."""

    @property
    def group(self) -> GroupParams: ...


class HeatmapParser:
    """Heatmaps and tag maps of one image -> people, in map pixels."""

    def __init__(self, settings: HasGroupParams | CfgNode) -> None:
        """`settings`: an InferenceSettings, or the config as HigherHRNet's callers give it."""
        is_config = isinstance(settings, CfgNode)
        self.params = GroupParams.from_config(settings) if is_config else settings.group

    def parse(
        self, det: Tensor, tag: Tensor, adjust: bool = True, refine: bool = True
    ) -> tuple[list[np.ndarray], list[float]]:
        """[(N, K, 3 + L)] people as x, y, score, tags of each joint, and N scores; N may be 0.

        det: (1, K, H, W); tag: (1, K or 1, H, W, L); on any device. A person's score is the mean
        of its joints' before `refine` adds those that it lacks.
        """
        people, scores = self.group(maps_of(det[0], tag[0]), adjust, refine)
        return [people], scores

    def group(
        self, maps: HostMaps | DeviceMaps, adjust: bool = True, refine: bool = True
    ) -> tuple[np.ndarray, list[float]]:
        """People (N, K, 3 + L) and their scores, as in `parse`."""
        people = group_by_tag(find_candidates(maps, self.params, adjust), self.params)
        scores = people[..., 2].mean(axis=1).tolist()
        if refine:
            fill_missing(people, maps, self.params.codec)
        return people, scores


def find_candidates(
    maps: HostMaps | DeviceMaps, params: GroupParams, adjust: bool
) -> list[np.ndarray]:
    """For each joint (n, 3 + L), the strongest first: x, y, value, tags of its heatmap's peaks.

    At most `max_people` of them, all above the threshold. Of equal values the first row by row
    comes first. x, y are where the codec puts the joint, or the pixel itself without `adjust`.
    """
    codec = params.codec
    radius = codec.reach(params.nms_kernel // 2)
    pixels = maps.local_maxima(params.detection_threshold, radius)
    if codec.native:
        pixels = pixels.select(first_of_equals(maps, pixels, radius))
    windows = maps.windows(pixels)
    kept = strongest(pixels, windows[:, 1, 1], params.max_people)
    pixels, windows = pixels.select(kept), windows[kept]
    xy = np.stack([pixels.x, pixels.y], axis=1)
    xy = xy + codec.offsets(windows) if adjust else xy
    found = np.concatenate(
        [xy, windows[:, 1, 1, None], maps.tags(pixels)], axis=1, dtype=np.float32
    )
    ends = np.searchsorted(pixels.joint, np.arange(1, params.num_joints))
    return np.split(found, ends)


def group_by_tag(candidates: Sequence[np.ndarray], params: GroupParams) -> np.ndarray:
    """Candidates -> people (N, K, 3 + L): x, y, value, tags; zeros where a joint was not found.

    candidates: one (n, 3 + L) per joint. Joint by joint, they are assigned to the people so far at
    the least total cost; one too far from its person in tag becomes a new person.
    """
    slots, width = sum(map(len, candidates)), candidates[0].shape[1]
    people = np.zeros((slots, params.num_joints, width), np.float32)
    tag_sums, counts = np.zeros((slots, width - 3)), np.zeros((slots, 1))
    person_of: dict[float, int] = {}  # by the first tag value of the founding joint
    for joint in params.joint_order:
        rows = candidates[joint]
        known = min(len(person_of), params.max_people)
        if len(rows) == 0 or (params.ignore_too_much and known == params.max_people):
            continue
        means = tag_sums[:known] / counts[:known]
        distance = np.linalg.norm(rows[:, None, 3:] - means, axis=2)  # (n, known)
        person = assign(distance, rows[:, 2], params)
        for row, who in zip(rows, person, strict=True):
            if who < 0:
                who = person_of.setdefault(float(row[3]), len(person_of))
                tag_sums[who] = counts[who] = 0  # the founder's tags count alone
            people[who, joint] = row
            tag_sums[who] += row[3:]
            counts[who] += 1
    return people[: len(person_of)]


def assign(distance: np.ndarray, values: np.ndarray, params: GroupParams) -> np.ndarray:
    """The person of each candidate, (n,), -1: nobody, at the least total cost.

    distance: (n, N) between tags; values: (n,), the largest first; people in the order in which
    they were found. Rounded distances tie whenever several candidates are near several people: then
    stronger ones go to people found earlier, much as the original's solver has it. (Giving them to
    the nearest costs a trained network .03 AP.)
    """
    cost = np.round(distance) * 100 - values[:, None] if params.use_detection_val else distance
    strength, age = np.arange(len(distance), 0, -1), np.arange(distance.shape[1])
    cost = cost + TIE * strength[:, None] * age
    rows, columns = linear_sum_assignment(cost)
    near = distance[rows, columns] < params.tag_threshold
    person = np.full(len(distance), -1)
    person[rows[near]] = columns[near]
    return person


def fill_missing(people: np.ndarray, maps: HostMaps | DeviceMaps, codec: Codec) -> None:
    """Find the joints that `people` (N, K, 3 + L) lack on their heatmaps, in place.

    A joint goes to the pixel that fits the person best (`best_pixels`), when its heatmap value is
    above 0.
    """
    has = people[..., 2] > 0  # (N, K)
    person, joint = np.nonzero(~has)
    if len(person) == 0:
        return
    mean = people[..., 3:].sum(axis=1) / has.sum(axis=1, keepdims=True, dtype=np.float32)  # (N, L)
    pixels = maps.best_pixels(joint, mean[person])
    windows = maps.windows(pixels)
    taken = windows[:, 1, 1] > 0
    xy = np.stack([pixels.x, pixels.y], axis=1) + codec.offsets(windows)
    people[person[taken], joint[taken], :2] = xy[taken]
    people[person[taken], joint[taken], 2] = windows[taken, 1, 1]
