"""The decoder in its most readable form: person by person, pixel by pixel, on whole maps.

The specification of lib/core/group.py: tests/core/test_decoder.py compares the results,
`python -m tools.benchmark decode` the times. It is the original's algorithm, with two rules that
the original leaves to its libraries: of equal peaks the first row by row is the stronger, and of
assignments of equal cost the one that gives stronger joints to people found earlier is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from lib.codec import Codec
from lib.core.group import GroupParams


def decode(
    det: np.ndarray,
    tag: np.ndarray,
    params: GroupParams,
    adjust: bool = True,
    refine: bool = True,
) -> tuple[np.ndarray, list[float]]:
    """det (K, H, W), tag (K or 1, H, W, L) -> people (N, K, 3 + L) and N scores."""
    tag = np.broadcast_to(tag, (*det.shape, tag.shape[-1]))
    codec = params.codec
    people = match(top_k(nms(det, params.nms_kernel, codec), tag, params), params)
    if adjust:
        for person in people:
            for joint in range(len(det)):
                if person[joint, 2] > 0:
                    x, y = person[joint, :2].astype(int)
                    person[joint, :2] = move(det[joint], x, y, codec)
    scores = [float(person[:, 2].mean()) for person in people]
    if refine:
        for person in people:
            refine_person(person, det, tag, codec)
    return np.array(people, np.float32).reshape(-1, len(det), 3 + tag.shape[-1]), scores


def nms(det: np.ndarray, kernel: int, codec: Codec) -> np.ndarray:
    """`det` where a pixel is the largest of its window, or the first of several; else 0."""
    maps, radius = torch.from_numpy(det), codec.reach(kernel // 2)
    largest = F.max_pool2d(maps[None], 2 * radius + 1, 1, radius)[0]
    peaks = (maps * (maps == largest)).numpy()
    for joint, y, x in zip(*np.nonzero(peaks > 0), strict=True):
        top, left = max(y - radius, 0), max(x - radius, 0)
        window = det[joint, top : y + radius + 1, left : x + radius + 1]
        if tuple(np.argwhere(window == det[joint, y, x])[0]) != (y - top, x - left):
            peaks[joint, y, x] = 0
    return peaks


def top_k(peaks: np.ndarray, tag: np.ndarray, params: GroupParams) -> list[np.ndarray]:
    """For each joint, its strongest peaks above the threshold as rows x, y, value, tags."""
    candidates = []
    for joint, heatmap in enumerate(peaks):
        ys, xs = np.nonzero(heatmap > params.detection_threshold)
        strongest = np.argsort(-heatmap[ys, xs], kind="stable")[: params.max_people]
        rows = [
            [x, y, heatmap[y, x], *tag[joint, y, x]]
            for y, x in zip(ys[strongest], xs[strongest], strict=True)
        ]
        candidates.append(np.array(rows, np.float32).reshape(len(rows), 3 + tag.shape[-1]))
    return candidates


def match(candidates: list[np.ndarray], params: GroupParams) -> list[np.ndarray]:
    """People in the order of their first joints."""
    people: dict[float, np.ndarray] = {}
    tags: dict[float, list[np.ndarray]] = {}
    for joint in params.joint_order:
        rows = candidates[joint]
        keys = list(people)[: params.max_people]
        if len(rows) == 0 or (params.ignore_too_much and len(keys) == params.max_people):
            continue
        person_of_row = {}
        if keys:
            means = [np.mean(tags[key], axis=0, dtype=np.float64) for key in keys]
            distance = np.array([[tag_distance(row[3:], m) for m in means] for row in rows])
            cost = distance
            if params.use_detection_val:
                cost = np.round(distance) * 100 - rows[:, 2:3]
            cost = cost + 1e-9 * np.outer(np.arange(len(rows), 0, -1), np.arange(len(keys)))
            for row, column in zip(*linear_sum_assignment(cost), strict=True):
                if distance[row, column] < params.tag_threshold:
                    person_of_row[row] = keys[column]
        for i, row in enumerate(rows):
            if i in person_of_row:
                key = person_of_row[i]
                people[key][joint] = row
                tags[key].append(row[3:])
            else:
                key = float(row[3])
                people.setdefault(key, np.zeros((params.num_joints, len(row)), np.float32))
                people[key][joint] = row
                tags[key] = [row[3:]]
    return list(people.values())


def tag_distance(tags: np.ndarray, others: Any) -> float:
    """Euclidean, of two (L,)."""
    return np.sqrt(((tags - others) ** 2).sum())


def refine_person(person: np.ndarray, det: np.ndarray, tag: np.ndarray, codec: Codec) -> None:
    """Search the joints that `person` lacks on their whole maps, in place."""
    mean = np.mean([joint[3:] for joint in person if joint[2] > 0], axis=0)
    for joint, heatmap in enumerate(det):
        distance = np.sqrt(((tag[joint] - mean) ** 2).sum(axis=2))
        best = np.argmax(heatmap - np.round(distance))
        y, x = divmod(best, heatmap.shape[1])
        if person[joint, 2] == 0 and heatmap[y, x] > 0:
            person[joint, :2] = move(heatmap, x, y, codec)
            person[joint, 2] = heatmap[y, x]


def move(heatmap: np.ndarray, x: int, y: int, codec: Codec) -> np.ndarray:
    """The joint that the codec decodes from a peak at (x, y)."""
    window = np.pad(heatmap, 1, mode="edge")[y : y + 3, x : x + 3]
    return codec.offsets(window[None])[0] + (x, y)
