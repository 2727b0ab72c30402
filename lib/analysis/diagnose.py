"""Error types: one for every labelled joint, and the numbers of missed and false people.

After Ronchi & Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation"
(ICCV 2017). It has two steps for each image.

1. Detections are matched to annotated people as the evaluators do, at OKS >= 0.1. The labelled
   joints of people without a detection are "person missed".
2. Each labelled joint of a matched person is classified by where the detection puts it. Distance
   is measured as keypoint similarity, ks = exp(-d^2 / (2 s^2 k^2)), with d the distance to a
   labelled joint in pixels, s^2 the area of its person, and k twice the sigma of that joint.

    | class     | ks to its own label | otherwise                                            |
    |-----------|---------------------|------------------------------------------------------|
    | good      | .85 or more         | (two annotators differ by as much)                   |
    | jitter    | .5 to .85           |                                                      |
    | inversion | below .5            | ks >= .5 to another joint of the same person         |
    | swap      | below .5            | ks >= .5 to any joint of another person in the image |
    | missed    | below .5            | ks < .5 to every labelled joint                      |

Example: a detected left wrist that lies on the right wrist of the same person is an inversion; on
the wrist of a neighbor it is a swap. Where both apply, the larger ks decides. Only the position of
a joint counts, not its score, as in AP.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from lib.dataset.annotations import BOX_AREA
from lib.keypoints import KeypointSpec
from lib.utils.tables import markdown

CLASSES = ("good", "jitter", "inversion", "swap", "missed", "person missed")
GOOD, JITTER, INVERSION, SWAP, MISSED, PERSON_MISSED = range(len(CLASSES))
KS_GOOD, KS_NEAR = 0.85, 0.5
MATCH_OKS = 0.1
MAX_DETECTIONS = 20  # per image, the best scored: the evaluators ignore all others
FALSE_SCORE = 0.2  # detections below it are not counted as false: they hardly change AP
NOBODY = -1
SIDES = (32, 48, 64, 96, 144, 216)  # pixels of a square with the person's area: where rows end

BODY_PARTS = {  # last word of a joint's name -> its row in the table; all others are "head"
    **dict.fromkeys(("shoulder", "elbow", "wrist"), "arms"),
    **dict.fromkeys(("hip", "knee", "ankle"), "legs"),
}

Table = tuple[list[str], list[list[str]]]  # head, rows


class Labels(NamedTuple):
    """All people annotated in one image, including those whom the evaluators do not judge."""

    joints: np.ndarray  # (P, K, 3): x, y, visibility (0: not labelled)
    boxes: np.ndarray  # (P, 4): x, y, width, height
    areas: np.ndarray  # (P,) square pixels
    judged: np.ndarray  # (P,) bool: neither a crowd nor without keypoints
    crowd: np.ndarray  # (P,) bool: any number of detections may match it

    @property
    def labelled(self) -> np.ndarray:
        """(P, K) bool"""
        return self.joints[..., 2] > 0


class Matching(NamedTuple):
    """Detections of one image and the annotated person of each, best scored first."""

    index: np.ndarray  # (N,) of the detections that count; N <= MAX_DETECTIONS
    oks: np.ndarray  # (N, P) similarity to each person
    person: np.ndarray  # (N,) index of the matched person, or NOBODY
    hits: np.ndarray  # (M,) indices into `person` of detections matched to judged people
    false: int  # detections of at least FALSE_SCORE that match nobody


class Diagnosis(NamedTuple):
    """Counts over one or more images."""

    joints: np.ndarray  # (K, C): labelled joints of judged people, by class
    detected: int  # judged people with a detection
    missed: int  # judged people without one
    false: int  # detections of at least FALSE_SCORE that match nobody
    people: np.ndarray  # (S, 2): judged people with and without a detection, by size (SIDES)
    sizes: np.ndarray  # (S, C): labelled joints of judged people, by size and class


def diagnose(
    spec: KeypointSpec, ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Diagnosis:
    """Error counts of result rows over all images of `ground_truth`, an annotation tree."""
    by_image = defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row)
    parts = []
    for image_id, labels in labels_by_image(ground_truth, spec).items():
        detections = by_image[image_id]
        keypoints = np.array([row["keypoints"] for row in detections], float)
        xy = keypoints.reshape(-1, spec.num_joints, 3)[..., :2]
        scores = np.array([row["score"] for row in detections], float)
        parts.append(diagnose_image(spec, labels, xy, scores))
    return Diagnosis(
        joints=np.sum([part.joints for part in parts], axis=0),
        detected=sum(part.detected for part in parts),
        missed=sum(part.missed for part in parts),
        false=sum(part.false for part in parts),
        people=np.sum([part.people for part in parts], axis=0),
        sizes=np.sum([part.sizes for part in parts], axis=0),
    )


def diagnose_image(
    spec: KeypointSpec, labels: Labels, xy: np.ndarray, scores: np.ndarray
) -> Diagnosis:
    """Counts for one image from its detections: xy (N, K, 2), scores (N,)."""
    matching = match(spec, labels, xy, scores)
    hits, person = matching.hits, matching.person[matching.hits]  # (M,)
    classes = np.full(labels.labelled.shape, PERSON_MISSED)  # (P, K)
    classes[person] = classify(xy[matching.index[hits]], person, labels, np.array(spec.sigmas))
    counted = labels.labelled & labels.judged[:, None]
    is_class = (classes[..., None] == np.arange(len(CLASSES))) & counted[..., None]  # (P, K, C)
    size = np.digitize(np.sqrt(labels.areas), SIDES)  # (P,)
    is_size = size == np.arange(len(SIDES) + 1)[:, None]  # (S, P)
    is_found = np.isin(np.arange(len(size)), person)  # (P,)
    found = np.stack([is_found, ~is_found], axis=1) & labels.judged[:, None]  # (P, 2)
    return Diagnosis(
        joints=is_class.sum(axis=0),
        detected=len(hits),
        missed=int(labels.judged.sum()) - len(hits),
        false=matching.false,
        people=is_size.astype(int) @ found,
        sizes=is_size.astype(int) @ is_class.sum(axis=1),
    )


# --- matching ---------------------------------------------------------------------------


def match(spec: KeypointSpec, labels: Labels, xy: np.ndarray, scores: np.ndarray) -> Matching:
    """Match detections xy (D, K, 2) with scores (D,) to people, as the evaluators do."""
    index = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    oks = person_similarity(xy[index], labels, np.array(spec.sigmas))
    person = match_people(oks, labels)
    hits = np.flatnonzero(person != NOBODY)
    hits = hits[labels.judged[person[hits]]]
    false = int(((person == NOBODY) & (scores[index] >= FALSE_SCORE)).sum())
    return Matching(index, oks, person, hits, false)


def person_similarity(xy: np.ndarray, labels: Labels, sigmas: np.ndarray) -> np.ndarray:
    """OKS (N, P) of detections (N, K, 2) with people: the mean ks over their labelled joints.

    A person without labelled joints is a region. As in the evaluators, distance is then measured
    to a box around the region's center with three times the sides of its own.
    """
    to_joint = xy[:, None] - labels.joints[..., :2]  # (N, P, K, 2)
    corner, side = labels.boxes[:, None, :2], labels.boxes[:, None, 2:]  # (P, 1, 2)
    before, after = corner - side - xy[:, None], xy[:, None] - (corner + 2 * side)
    to_region = before.clip(min=0) + after.clip(min=0)  # 0 inside
    is_region = ~np.any(labels.labelled, axis=1, keepdims=True)  # (P, 1)
    offset = np.where(is_region[..., None], to_region, to_joint)
    ks = np.exp(-(offset**2).sum(axis=-1) / _tolerance(labels, sigmas))  # (N, P, K)
    weight = labels.labelled | is_region  # (P, K)
    return (ks * weight).sum(axis=-1) / weight.sum(axis=-1)


def match_people(oks: np.ndarray, labels: Labels) -> np.ndarray:
    """OKS (N, P), best scored detection first -> (N,) person of each detection, or NOBODY.

    A detection takes the most similar free person whom AP judges. Only if none is similar enough
    it takes one who is not judged: such a detection is neither right nor wrong.
    """
    match = np.full(len(oks), NOBODY)
    free = np.ones(len(labels.joints), bool)
    for n, similarity in enumerate(oks):
        for group in (labels.judged, ~labels.judged):
            near = np.flatnonzero(free & group & (similarity >= MATCH_OKS))
            if len(near):
                match[n] = near[similarity[near].argmax()]
                free[match[n]] = labels.crowd[match[n]]
                break
    return match


def classify(xy: np.ndarray, person: np.ndarray, labels: Labels, sigmas: np.ndarray) -> np.ndarray:
    """Class of each joint (M, K) of detections xy (M, K, 2) matched to people `person` (M,)."""
    # ks of every detected joint with every labelled joint of every person: (M, K, P, K)
    offset = xy[:, :, None, None] - labels.joints[..., :2]  # (M, K, P, K, 2)
    ks = np.exp(-(offset**2).sum(axis=-1) / _tolerance(labels, sigmas)) * labels.labelled
    row, joint = np.arange(len(xy)), np.arange(xy.shape[1])
    same_person = ks[row, :, person]  # (M, K, K)
    same_joint = same_person[:, joint, joint]  # (M, K), to its own label
    best = ks.max(axis=(2, 3), initial=0)  # (M, K), to any label in the image
    return np.select(  # the first condition that holds decides
        [
            same_joint >= KS_GOOD,
            same_joint >= KS_NEAR,
            best < KS_NEAR,
            same_person.max(axis=2) >= best,  # the most similar label belongs to the same person
        ],
        [GOOD, JITTER, MISSED, INVERSION],
        SWAP,
    )


def _tolerance(labels: Labels, sigmas: np.ndarray) -> np.ndarray:
    """(P, K): 2 s^2 k^2 of every labelled joint, above 0 as in pycocotools."""
    return 2 * (labels.areas[:, None] + np.spacing(1)) * (2 * sigmas) ** 2


# --- ground truth -----------------------------------------------------------------------


def labels_by_image(ground_truth: Mapping[str, Any], spec: KeypointSpec) -> dict[int, Labels]:
    """Image id -> people, judged by the evaluators' rules, for each image of an annotation tree."""
    by_image: dict[int, list[Mapping[str, Any]]] = {
        image["id"]: [] for image in ground_truth["images"]
    }
    for annotation in ground_truth.get("annotations") or []:
        if "keypoints" in annotation:
            by_image[annotation["image_id"]].append(annotation)
    return {image_id: _labels(people, spec) for image_id, people in by_image.items()}


def _labels(people: Sequence[Mapping[str, Any]], spec: KeypointSpec) -> Labels:
    joints = np.array([a["keypoints"] for a in people], float).reshape(-1, spec.num_joints, 3)
    boxes = np.array([a["bbox"] for a in people], float).reshape(-1, 4)
    areas = BOX_AREA * boxes[:, 2] * boxes[:, 3]
    if spec.use_area:
        annotated = np.array([a.get("area", np.nan) for a in people], float)
        areas = np.where(np.isnan(annotated), areas, annotated)
    crowd = np.array([bool(a.get("iscrowd")) for a in people], bool)
    # num_keypoints leaves out `spec.uncounted` joints: who has only these is not judged.
    empty = np.array([not a.get("num_keypoints", True) for a in people], bool)
    judged = ~crowd & ~empty & (joints[..., 2] > 0).any(axis=1)
    return Labels(joints, boxes, areas, judged, crowd)


# --- tables -----------------------------------------------------------------------------


def diagnosis_table(spec: KeypointSpec, diagnosis: Diagnosis) -> str:
    """`joint_table`, `people_table` and `size_table` as Markdown."""
    tables = joint_table(spec, diagnosis), people_table(diagnosis), size_table(diagnosis)
    return "\n\n".join(markdown(head, rows) for head, rows in tables)


def joint_table(spec: KeypointSpec, diagnosis: Diagnosis) -> Table:
    """Classes as percentages of the labelled joints: a row for each part of the body.

    Custom keypoints have a row for each joint.
    """
    parts = [BODY_PARTS.get(name.rsplit("_", 1)[-1], "head") for name in spec.joints]
    names = [name for name in ("head", "arms", "legs") if name in parts]
    if spec.is_custom:
        names = parts = list(spec.joints)
    rows = []
    for name in (*names, "all"):
        counts = diagnosis.joints[[name in (part, "all") for part in parts]].sum(axis=0)  # (C,)
        shares = 100 * counts / max(1, counts.sum())
        rows.append([name, str(counts.sum()), *(f"{share:.1f} %" for share in shares)])
    return ["Joints", "labelled", *CLASSES], rows


def people_table(diagnosis: Diagnosis) -> Table:
    """One row: people annotated, detected and missed, and false detections."""
    people = diagnosis.detected + diagnosis.missed
    counts = people, diagnosis.detected, diagnosis.missed, diagnosis.false
    head = ["People", "found", "missed", f"false, score >= {FALSE_SCORE}"]
    return head, [list(map(str, counts))]


def size_table(diagnosis: Diagnosis) -> Table:
    """People and classes by size: a row for each size that somebody has.

    Size is the side of a square with the person's area.
    """
    names = [f"below {SIDES[0]}", *(f"{a} to {b}" for a, b in pairwise(SIDES)), f"from {SIDES[-1]}"]
    rows = []
    for name, people, counts in zip(names, diagnosis.people, diagnosis.sizes, strict=True):
        shares = 100 * counts / max(1, counts.sum())
        cells = [*map(str, people), str(counts.sum()), *(f"{share:.1f} %" for share in shares)]
        if people.any():
            rows.append([f"{name} px", *cells])
    return ["Side", "found", "missed", "labelled", *CLASSES], rows
