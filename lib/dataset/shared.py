"""Two joint sets: which joints they share, and a test split reduced to those."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lib.dataset.annotations import with_joints_of
from lib.dataset.build import EvaluationSet, require_judged
from lib.dataset.image_files import ImageRecord
from lib.keypoints import KeypointSpec

logger = logging.getLogger(__name__)


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


def share_joints(
    data: EvaluationSet, network: KeypointSpec
) -> tuple[EvaluationSet, tuple[int, ...]]:
    """`data` reduced to the joints that `network` has too, and their places among the latter."""
    names = shared_joints(data.spec, network)
    logger.info("scored over the %d joints that both have: %s", len(names), ", ".join(names))
    for owner, spec in (("the network", network), ("the data set", data.spec)):
        others = [name for name in spec.joints if name not in names]
        if others:
            logger.info("not scored, as only %s has them: %s", owner, ", ".join(others))
    return reduced_to(data, names), tuple(map(network.joints.index, names))


def _record(record: ImageRecord, places: Sequence[int]) -> ImageRecord:
    joints = record.joints[:, places]
    labelled = (joints[..., 2] > 0).any(axis=1)  # (P,)
    return record._replace(joints=joints[labelled], boxes=record.boxes[labelled])
