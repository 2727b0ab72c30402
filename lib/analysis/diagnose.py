"""Where AP is lost: the kind of error of every labelled joint, and the people missed or invented.

The field's usual diagnosis, after Ronchi & Perona, "Benchmarking and Error Diagnosis in
Multi-Instance Pose Estimation" (ICCV 2017). People found are matched to people labelled as the
evaluators match them, at OKS >= 0.1. How near a found joint lies to a labelled one is
ks = exp(-d^2 / (2 s^2 k^2)): d their distance, s^2 the area of the labelled person, k twice the
sigma of the labelled joint. Each labelled joint of a matched person is then one of

- good: ks to its own place is at least .85, about what two annotators differ by;
- jitter: it is at least .5, so the place is right and the precision is not;
- inversion: it is less, but ks to another joint of the same person (its mirror image or any
  other) is at least .5;
- swap: it is less, but ks to any joint of another person in the picture is at least .5;
- missed: nothing labelled is so near.

Where inversion and swap both apply, the larger ks decides. Labelled joints of people whom nobody
was matched to are the sixth class, "person missed". As in AP, the place alone counts and not the
score that a joint has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.dataset.annotations import BOX_AREA
from lib.dataset.reader import read_annotations
from lib.keypoints import KeypointSpec

CLASSES = ("good", "jitter", "inversion", "swap", "missed", "person missed")
GOOD, JITTER, INVERSION, SWAP, MISSED, PERSON_MISSED = range(len(CLASSES))
KS_GOOD, KS_NEAR = 0.85, 0.5
MATCH_OKS = 0.1
MAX_DETECTIONS = 20  # per picture, the best scored: the evaluators look at no others
FALSE_SCORE = 0.2  # people below it are not counted as false: AP hardly feels them
NOBODY = -1

BODY_PARTS = {  # last word of a joint's name -> its row in the table; every other is of the head
    **dict.fromkeys(("shoulder", "elbow", "wrist"), "arms"),
    **dict.fromkeys(("hip", "knee", "ankle"), "legs"),
}


class Truth(NamedTuple):
    """Everybody annotated in one picture, the people who are not judged included."""

    joints: np.ndarray  # (P, K, 3): x, y, visibility (0: not labelled)
    boxes: np.ndarray  # (P, 4): x, y, width, height
    areas: np.ndarray  # (P,)
    judged: np.ndarray  # (P,) bool: neither a crowd nor without keypoints
    crowd: np.ndarray  # (P,) bool: may be matched many times

    @property
    def labelled(self) -> np.ndarray:
        """(P, K) bool"""
        return self.joints[..., 2] > 0


@dataclass(frozen=True)
class Diagnosis:
    """Counts; those of several pictures add up."""

    joints: np.ndarray  # (K, C): labelled joints of judged people, by class
    found: int = 0  # judged people who were matched
    missed: int = 0  # judged people who were not
    false: int = 0  # detections of at least FALSE_SCORE that nobody was matched to

    def __add__(self, other: Diagnosis) -> Diagnosis:
        return Diagnosis(
            self.joints + other.joints,
            self.found + other.found,
            self.missed + other.missed,
            self.false + other.false,
        )


def diagnose(
    spec: KeypointSpec,
    annotations: Path,
    rows: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int] | None = None,
) -> Diagnosis:
    """The count of result rows on `image_ids` (None: all pictures); as `score_rows` takes them."""
    people = read_truth(annotations, spec)
    found = defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    total = Diagnosis(np.zeros((spec.num_joints, len(CLASSES)), int))
    for image_id in people if image_ids is None else image_ids:
        own = found[image_id]
        xy = np.array([row["keypoints"] for row in own], float).reshape(-1, spec.num_joints, 3)
        scores = np.array([row["score"] for row in own], float)
        total += diagnose_image(spec, people[image_id], xy[..., :2], scores)
    return total


def diagnose_image(
    spec: KeypointSpec, truth: Truth, xy: np.ndarray, scores: np.ndarray
) -> Diagnosis:
    """Of one picture's detections: xy (N, K, 2), scores (N,)."""
    best, _, match = match_best(spec, truth, xy, scores)
    xy, scores = xy[best], scores[best]
    hits = np.flatnonzero(match != NOBODY)
    hits = hits[truth.judged[match[hits]]]  # (M,)
    classes = np.full(truth.labelled.shape, PERSON_MISSED)  # (P, K)
    classes[match[hits]] = classify(xy[hits], match[hits], truth, np.array(spec.sigmas))
    counted = truth.labelled & truth.judged[:, None]
    joints = np.stack([((classes == c) & counted).sum(axis=0) for c in range(len(CLASSES))], axis=1)
    false = ((match == NOBODY) & (scores >= FALSE_SCORE)).sum()
    return Diagnosis(joints, len(hits), int(truth.judged.sum()) - len(hits), int(false))


def match_best(
    spec: KeypointSpec, truth: Truth, xy: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The detections that the evaluators look at: indices (N,), OKS (N, P), person of each (N,).

    xy (D, K, 2), scores (D,); the best scored first.
    """
    best = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    oks = person_similarity(xy[best], truth, np.array(spec.sigmas))
    return best, oks, match_people(oks, truth)


def person_similarity(xy: np.ndarray, truth: Truth, sigmas: np.ndarray) -> np.ndarray:
    """OKS (N, P) of detections (N, K, 2): mean ks of the labelled joints, each to its own.

    A person without labelled joints is a region: joints count as on it within a box of three
    times the sides of theirs, as the evaluators have it.
    """
    to_joint = xy[:, None] - truth.joints[..., :2]  # (N, P, K, 2)
    corner, side = truth.boxes[:, None, :2], truth.boxes[:, None, 2:]  # (P, 1, 2)
    before, after = corner - side - xy[:, None], xy[:, None] - (corner + 2 * side)
    to_region = before.clip(min=0) + after.clip(min=0)
    is_region = ~truth.labelled.any(axis=1)[:, None]  # (P, 1)
    offset = np.where(is_region[..., None], to_region, to_joint)
    ks = np.exp(-(offset**2).sum(axis=-1) / _tolerance(truth, sigmas))  # (N, P, K)
    weight = truth.labelled | is_region  # (P, K)
    return (ks * weight).sum(axis=-1) / weight.sum(axis=-1)


def match_people(oks: np.ndarray, truth: Truth) -> np.ndarray:
    """(N, P) -> (N,): the person of each detection, the best scored first, or NOBODY.

    A detection takes the nearest person left whom AP judges; only where none is near enough, one
    who is not judged, and then it is neither right nor wrong.
    """
    match = np.full(len(oks), NOBODY)
    free = np.ones(len(truth.joints), bool)
    for n, similarity in enumerate(oks):
        for group in (truth.judged, ~truth.judged):
            near = np.flatnonzero(free & group & (similarity >= MATCH_OKS))
            if len(near):
                match[n] = near[similarity[near].argmax()]
                free[match[n]] = truth.crowd[match[n]]
                break
    return match


def classify(xy: np.ndarray, person: np.ndarray, truth: Truth, sigmas: np.ndarray) -> np.ndarray:
    """Classes (M, K) of matched detections: xy (M, K, 2), whose person is `person` (M,)."""
    offset = xy[:, :, None, None] - truth.joints[..., :2]  # (M, K, P, K, 2)
    ks = np.exp(-(offset**2).sum(axis=-1) / _tolerance(truth, sigmas)) * truth.labelled
    row, joint = np.arange(len(xy)), np.arange(xy.shape[1])
    same = ks[row, :, person]  # (M, K, K)
    own, nearest = same[:, joint, joint], ks.max(axis=(2, 3), initial=0)
    return np.select(
        [own >= KS_GOOD, own >= KS_NEAR, nearest < KS_NEAR, same.max(axis=2) >= nearest],
        [GOOD, JITTER, MISSED, INVERSION],
        SWAP,
    )


def read_truth(annotations: Path, spec: KeypointSpec) -> dict[int, Truth]:
    """Every picture of an annotation file -> its people, judged by the evaluators' rules."""
    tree = read_annotations(annotations, spec)
    by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in tree["images"]}
    for annotation in tree.get("annotations") or []:
        if "keypoints" in annotation:
            by_image[annotation["image_id"]].append(annotation)
    return {image_id: _truth(people, spec) for image_id, people in by_image.items()}


def diagnosis_table(spec: KeypointSpec, diagnosis: Diagnosis) -> str:
    """Shares of the labelled joints in percent, by part of the body; then the people.

    Of an own data set, joint by joint.
    """
    tables = joint_table(spec, diagnosis), people_table(diagnosis)
    return "\n\n".join(_markdown(table) for table in tables)


def joint_table(spec: KeypointSpec, diagnosis: Diagnosis) -> list[list[str]]:
    """A head and rows: shares of the labelled joints, as in `diagnosis_table`."""
    names: Sequence[str] = ("head", "arms", "legs")
    part = [BODY_PARTS.get(name.rsplit("_", 1)[-1], "head") for name in spec.joints]
    if spec.is_custom:
        names = part = list(spec.joints)
    rows = [["Joints", "labelled", *CLASSES]]
    for name in (*names, "all"):
        counts = diagnosis.joints[[name in (own, "all") for own in part]].sum(axis=0)  # (C,)
        shares = 100 * counts / max(1, counts.sum())
        rows.append([name, str(counts.sum()), *(f"{share:.1f} %" for share in shares)])
    return rows


def people_table(diagnosis: Diagnosis) -> list[list[str]]:
    """A head and one row."""
    people = diagnosis.found + diagnosis.missed
    counts = people, diagnosis.found, diagnosis.missed, diagnosis.false
    head = ["People", "found", "missed", f"false, score >= {FALSE_SCORE}"]
    return [head, list(map(str, counts))]


def _markdown(table: list[list[str]]) -> str:
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "|---" * len(table[0]) + "|", *rows])


def _tolerance(truth: Truth, sigmas: np.ndarray) -> np.ndarray:
    """(P, K): 2 s^2 k^2 of every labelled joint."""
    return 2 * (truth.areas[:, None] + np.spacing(1)) * (2 * sigmas) ** 2


def _truth(people: Sequence[Mapping[str, Any]], spec: KeypointSpec) -> Truth:
    joints = np.array([a["keypoints"] for a in people], float).reshape(-1, spec.num_joints, 3)
    boxes = np.array([a["bbox"] for a in people], float).reshape(-1, 4)
    areas = BOX_AREA * boxes[:, 2] * boxes[:, 3]
    if spec.use_area:
        given = np.array([a.get("area", np.nan) for a in people], float)
        areas = np.where(np.isnan(given), areas, given)
    crowd = np.array([bool(a.get("iscrowd")) for a in people], bool)
    # CrowdPose's num_keypoints leaves out head and neck, so who has only these is not judged.
    empty = np.array([not a.get("num_keypoints", True) for a in people], bool)
    return Truth(joints, boxes, areas, ~crowd & ~empty & (joints[..., 2] > 0).any(axis=1), crowd)
