"""Two joint sets: which joints they share, and a test split reduced to those."""

from __future__ import annotations

from collections.abc import Sequence

from lib.dataset.annotations import with_joints_of
from lib.dataset.build import EvaluationSet, require_judged
from lib.dataset.image_files import ImageRecord
from lib.keypoints import KeypointSpec


def shared_joints(spec: KeypointSpec, other: KeypointSpec) -> tuple[str, ...]:
    """The joints of `spec` that `other` has too, by name; ValueError if there are none."""
    names = tuple(name for name in spec.joints if name in other.joints)
    if not names:
        raise ValueError(
            f"{spec.name} and {other.name} share no joint: {', '.join(spec.joints)} and "
            f"{', '.join(other.joints)}"
        )
    return names


def reduced_to(data: EvaluationSet, names: Sequence[str]) -> EvaluationSet:
    """`data` with the labels of the joints `names` alone, in the order of its joint set.

    Metric, sigmas and areas stay those of the data set. A person with none of these joints labelled
    is treated as one without keypoints: neither judged nor a place for false detections.
    """
    spec = data.spec.limited_to(names)
    places = [data.spec.joints.index(name) for name in spec.joints]
    reduced = data._replace(
        spec=spec,
        records=[_record(record, places) for record in data.records],
        ground_truth=with_joints_of(data.ground_truth, data.spec, spec),
    )
    require_judged(reduced)
    return reduced


def _record(record: ImageRecord, places: Sequence[int]) -> ImageRecord:
    joints = record.joints[:, places]
    labelled = (joints[..., 2] > 0).any(axis=1)  # (P,)
    return record._replace(joints=joints[labelled], boxes=record.boxes[labelled])
