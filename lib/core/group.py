"""From heatmaps and tags to people (Newell et al. 2017; paper, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from yacs.config import CfgNode

# The order in which joints found people or join them: face, shoulders, hips, then limbs
# (COCO's indices; cut to K joints for CrowdPose, as the original does).
VISITING_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
NO_PERSON = 1e10  # cost of the columns that stand for new people


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
    nms_padding: int = 2

    @property
    def num_joints(self) -> int:
        return len(self.joint_order)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> GroupParams:
        """The center joint, where it is not ignored, is visited first."""
        center = cfg.DATASET.WITH_CENTER
        body = cfg.DATASET.NUM_JOINTS - center
        order = tuple(j for j in VISITING_ORDER if j < body)
        test = cfg.TEST
        return cls(
            joint_order=(body, *order) if center and not test.IGNORE_CENTER else order,
            max_people=cfg.DATASET.MAX_NUM_PEOPLE,
            detection_threshold=test.DETECTION_THRESHOLD,
            tag_threshold=test.TAG_THRESHOLD,
            use_detection_val=test.USE_DETECTION_VAL,
            ignore_too_much=test.IGNORE_TOO_MUCH,
            tag_per_joint=cfg.MODEL.TAG_PER_JOINT,
            nms_kernel=test.NMS_KERNEL,
            nms_padding=test.NMS_PADDING,
        )


class HeatmapParser:
    """Heatmaps and tag maps of one picture -> people, in map pixels."""

    def __init__(self, cfg: CfgNode) -> None:
        self.params = GroupParams.from_config(cfg)

    def nms(self, det: Tensor) -> Tensor:
        """(1, K, H, W): values that are not the largest of their window become 0."""
        p = self.params
        return det * (F.max_pool2d(det, p.nms_kernel, 1, p.nms_padding) == det)

    def top_k(self, det: Tensor, tag: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The M strongest candidates of each joint: values (K, M), tags (K, M, L), xy (K, M, 2)."""
        _, num_joints, height, width = det.shape
        candidates = min(self.params.max_people, height * width)
        values, index = self.nms(det)[0].flatten(1).topk(candidates, dim=1)  # (K, M)
        tag = tag[0].expand(num_joints, -1, -1, -1).flatten(1, 2)  # (K, H * W, L)
        tags = tag.gather(1, index[..., None].expand(-1, -1, tag.shape[-1]))
        xy = torch.stack([index % width, index // width], dim=-1)
        return values.cpu().numpy(), tags.cpu().numpy(), xy.cpu().numpy()

    def parse(
        self, det: Tensor, tag: Tensor, adjust: bool = True, refine: bool = True
    ) -> tuple[list[np.ndarray], list[float]]:
        """[(N, K, 3 + L)] people as x, y, score, tags of each joint, and N scores; N may be 0.

        det: (1, K, H, W); tag: (1, K or 1, H, W, L). A person's score is the mean of its joints'
        before `refine` adds those that it lacks.
        """
        people = group_by_tag(*self.top_k(det, tag), self.params)
        heatmaps, tag_maps = det[0].cpu().numpy(), tag[0].cpu().numpy()
        if adjust:
            found = people[..., 2] > 0
            people[found, :2] = quarter_pixel(heatmaps, people[..., :2].astype(int))[found]
        scores = people[..., 2].mean(axis=1).tolist()
        if refine:
            for person in people:
                fill_missing(person, heatmaps, tag_maps)
        return [people], scores


def group_by_tag(
    values: np.ndarray, tags: np.ndarray, xy: np.ndarray, params: GroupParams
) -> np.ndarray:
    """Candidates -> people (N, K, 3 + L): x, y, value, tags; zeros where a joint was not found.

    values (K, M), tags (K, M, L), xy (K, M, 2). Joint by joint, candidates are assigned to the
    people so far at the least total cost; one too far from its person in tag becomes a new person.
    """
    candidates = np.concatenate([xy, values[..., None], tags], axis=-1).astype(np.float32)
    people: dict[float, np.ndarray] = {}  # by the first tag value of the founding joint
    members: dict[float, list[np.ndarray]] = {}  # tags of the joints that count for its mean

    def found(joint: int, candidate: np.ndarray) -> None:
        key = float(candidate[3])
        person = people.setdefault(key, np.zeros((params.num_joints, len(candidate)), np.float32))
        person[joint] = candidate
        members[key] = [candidate[3:]]

    for joint in params.joint_order:
        rows = candidates[joint][values[joint] > params.detection_threshold]
        if len(rows) == 0:
            continue
        keys = list(people)[: params.max_people]
        if not keys:
            for candidate in rows:
                found(joint, candidate)
            continue
        if params.ignore_too_much and len(keys) == params.max_people:
            continue
        means = np.stack([np.mean(members[key], axis=0) for key in keys])  # (N, L)
        distance = np.linalg.norm(rows[:, None, 3:] - means[None], axis=2)  # (rows, N)
        for row, column in zip(*assign(distance, rows[:, 2], params), strict=True):
            if column < len(keys) and distance[row, column] < params.tag_threshold:
                people[keys[column]][joint] = rows[row]
                members[keys[column]].append(rows[row, 3:])
            else:
                found(joint, rows[row])
    return np.array(list(people.values()), np.float32).reshape(
        -1, params.num_joints, candidates.shape[-1]
    )


def assign(
    distance: np.ndarray, values: np.ndarray, params: GroupParams
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (candidates) and columns (people; beyond the last: nobody) of least total cost."""
    cost = distance
    if params.use_detection_val:
        cost = np.round(distance) * 100 - values[:, None]
    spare = max(0, cost.shape[0] - cost.shape[1])
    return linear_sum_assignment(np.pad(cost, ((0, 0), (0, spare)), constant_values=NO_PERSON))


def quarter_pixel(heatmaps: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(N, K, 2) whole pixels of heatmaps (K, H, W) -> pixel centers moved a quarter pixel.

    Each coordinate moves toward its higher neighbor (down when they are equal).
    """
    _, height, width = heatmaps.shape
    joint = np.arange(xy.shape[1])
    x, y = xy[..., 0], xy[..., 1]
    right = heatmaps[joint, y, np.minimum(x + 1, width - 1)]
    left = heatmaps[joint, y, np.maximum(x - 1, 0)]
    below = heatmaps[joint, np.minimum(y + 1, height - 1), x]
    above = heatmaps[joint, np.maximum(y - 1, 0), x]
    toward = np.stack([right > left, below > above], axis=-1)
    return xy + 0.5 + np.where(toward, 0.25, -0.25)


def fill_missing(person: np.ndarray, heatmaps: np.ndarray, tag_maps: np.ndarray) -> None:
    """Find the joints that `person` (K, 3 + L) lacks on its heatmaps, in place.

    The pixel of the largest heatmap value less the rounded distance of its tag to the person's
    mean; taken when its heatmap value is above 0. heatmaps (K, H, W), tag_maps (K or 1, H, W, L).
    """
    num_joints, _, width = heatmaps.shape
    has = person[:, 2] > 0
    if has.all() or not has.any():
        return
    tag_maps = np.broadcast_to(tag_maps, (num_joints, *tag_maps.shape[1:]))
    x, y = person[has, :2].astype(int).T
    mean = tag_maps[has.nonzero()[0], y, x].mean(axis=0)  # (L,)
    missing = np.flatnonzero(~has)
    distance = np.sqrt(((tag_maps[missing] - mean) ** 2).sum(axis=-1))  # (missing, H, W)
    best = (heatmaps[missing] - np.round(distance)).reshape(len(missing), -1).argmax(axis=1)
    x, y = best % width, best // width
    value = heatmaps[missing, y, x]
    at = quarter_pixel(heatmaps[missing], np.stack([x, y], axis=-1)[None])[0]
    taken = value > 0
    person[missing[taken], :2] = at[taken]
    person[missing[taken], 2] = value[taken]
