"""How well labels of a network agree with human ones, by threshold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lib.analysis.diagnose import KS_GOOD, KS_NEAR, MATCH_OKS
from lib.dataset.annotations import Entry
from lib.keypoints import KEYPOINTS, KeypointSpec
from lib.utils.tables import markdown
from tools.label_images.annotations import (
    Known,
    Thresholds,
    covers,
    joint_similarity,
    known_people,
    similarity,
)
from tools.label_images.trees import Results, found

SCORES = (0.1, 0.2, 0.3, 0.4, 0.5)
CONFIDENCES = (0.05, 0.1, 0.2, 0.3, 0.4)
HEAD = ["--min-score", "--min-joint", "people", "known", "recall", "joints", "near", "good"]


def agreement(
    spec: KeypointSpec, results: Results, limits: Thresholds, theirs: KeypointSpec, tree: Entry
) -> str:
    """Markdown: agreement of labels of `spec` with a completed tree of the joint set `theirs`.

    It is that of the joints that both sets have, at several thresholds.

    people: labelled ones; known: the share whom the human annotations have, too; recall: the share
    of human people who are labelled. joints: those of known people that both label; near, good: the
    shares at a keypoint similarity of .5 and .85 or more (`lib.analysis.diagnose`). Who is found in
    a region, or on a person without joints, does not count.
    """
    names = [name for name in spec.joints if name in theirs.joints]
    by_image = defaultdict(list)
    for one in tree["annotations"]:
        by_image[one["image_id"]].append(one)
    people = {
        image["file_name"]: [
            select(theirs, names, one) for one in known_people(by_image[image["id"]])
        ]
        for image in tree["images"]
    }
    sigmas = tuple(spec.sigmas[spec.joints.index(name)] for name in names)
    shared = replace(spec, joints=tuple(names), sigmas=sigmas)
    settings = [Thresholds(score, limits.joint, score) for score in SCORES]
    settings += [Thresholds(limits.score, joint, limits.score) for joint in CONFIDENCES]
    rows = []
    for one in settings:
        counts = np.zeros(5, int)
        for name, result in results.items():
            labels = known_people(found(spec, result, one))
            labels = [select(spec, names, label) for label in labels if label.joints.any()]
            counts += count(shared, labels, people[name])
        known = sum(int(other.joints[:, 2].any()) for name in results for other in people[name])
        rows.append(row_of(one, counts, known))
    return markdown(HEAD, rows)


def spec_of(tree: Entry, default: KeypointSpec) -> KeypointSpec:
    """The known joint set that a category of an annotation file lists, or `default`."""
    listed = [one.get("keypoints") for one in tree.get("categories") or [] if isinstance(one, dict)]
    return next((spec for spec in KEYPOINTS.values() if list(spec.joints) in listed), default)


def select(spec: KeypointSpec, names: Sequence[str], one: Known) -> Known:
    return one._replace(joints=one.joints[[spec.joints.index(name) for name in names]])


def count(spec: KeypointSpec, labels: Sequence[Known], people: Sequence[Known]) -> np.ndarray:
    """(5,): people, known people, their joints that both label, near ones, good ones."""
    free = [one for one in people if one.joints[:, 2].any()]
    regions = [one for one in people if not one.joints[:, 2].any()]
    counts = np.zeros(5, int)
    for one in labels:
        oks = [similarity(spec, one, other) for other in free]
        if max(oks, default=0) >= MATCH_OKS:
            ks = joint_similarity(spec, one, free.pop(int(np.argmax(oks))))
            counts += [1, 1, len(ks), int((ks >= KS_NEAR).sum()), int((ks >= KS_GOOD).sum())]
        elif not any(covers(region, one) for region in regions):
            counts[0] += 1
    return counts


def row_of(limits: Thresholds, counts: np.ndarray, human_people: int) -> list[str]:
    people, known, joints, near, good = map(int, counts)
    shares = [(known, people), (known, human_people), (near, joints), (good, joints)]
    precise, recall, is_near, is_good = (f"{a / b:.3f}" if b else "-" for a, b in shares)
    thresholds = [f"{limits.score:g}", f"{limits.joint:g}"]
    return [*thresholds, str(people), precise, recall, str(joints), is_near, is_good]
