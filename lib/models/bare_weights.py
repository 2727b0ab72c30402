"""The settings of a bare state dict: defaults, and values derived from its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from lib.config import read_config
from lib.config.checks import PER_STAGE
from lib.config.default import _C as DEFAULTS
from lib.config.joints import is_file, read_joints
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec, keypoints_of
from lib.models.arch import ArchSpec
from lib.models.structure import Outputs, Structure, same_network, split_channels

# Keys of DATASET that differ from the defaults (COCO's), per data set, as in experiments/.
FILES = {"crowd_pose": {"ROOT": "data/crowd_pose", "TRAIN": "trainval", "TEST": "test"}}
PUBLISHED = Path(__file__).resolve().parents[2] / "mobile_configs"


def published(arch: ArchSpec) -> ArchSpec | None:
    """The file of mobile_configs with widths and kernels of `arch`; it has an input size too."""
    files = sorted(PUBLISHED.glob("*.json"))
    return next((one for one in map(ArchSpec.from_json, files) if same_network(one, arch)), None)


def settings_of_tensors(
    structure: Structure, path: Path, opts: Sequence[str], size: int | None, like: CfgNode | None
) -> CfgNode:
    """The default settings with the network and the joints of the tensors.

    size: input size in pixels. like: settings to take input size and joints from.

    The codec is the default one, that of the published weights.
    """
    outputs, data = _joints_of(structure, path, opts, like)
    if size is None and "DATASET.INPUT_SIZE" not in opts[::2]:
        if like is None:
            raise ValueError(
                f"{path} holds weights alone, and no file of {PUBLISHED.name} has their "
                f"architecture; pass the input size: input_size=N, or DATASET.INPUT_SIZE N"
            )
        size = like.DATASET.INPUT_SIZE
    stages = len(outputs.with_tags)
    tree: dict[str, Any] = {
        node: {key: [DEFAULTS[node][key][0]] * stages for key in PER_STAGE[node]}
        for node in ("LOSS", "TEST")
    }
    tree["LOSS"] |= {"NUM_STAGES": stages, "WITH_AE_LOSS": list(outputs.with_tags)}
    tree["TEST"]["WITH_AE"] = list(outputs.with_tags)
    tree["DATASET"] = data
    tree["MODEL"] = {
        "NAME": structure.kind,
        "NUM_JOINTS": outputs.num_joints,
        "TAG_PER_JOINT": outputs.tag_per_joint,
        "AE_TAG_DIMS": outputs.tag_dims,
        **structure.model,
    }
    return read_config(yaml.safe_dump(tree), f"the tensors of {path}", opts, size)


def _joints_of(
    structure: Structure, path: Path, opts: Sequence[str], like: CfgNode | None
) -> tuple[Outputs, dict[str, Any]]:
    """How the output channels are divided, and the DATASET node for that number of joints."""
    data_set = dict(zip(opts[::2], opts[1::2], strict=False)).get("DATASET.DATASET")
    # Number of joints -> their spec, and whether a center joint follows them. A center is only
    # considered if the data set is named: 18 joints need not be COCO's and a center.
    known = {spec.num_joints: (spec, False) for spec in (COCO, CROWD_POSE)}
    if like:
        known[like.MODEL.NUM_JOINTS] = keypoints_of(like, is_train=True), like.DATASET.WITH_CENTER
    if data_set:
        spec = _spec_of(data_set)
        known = {spec.num_joints + 1: (spec, True), spec.num_joints: (spec, False)}
    outputs = split_channels(structure.channels, known)
    if outputs.num_joints not in known:
        if data_set:
            raise ValueError(
                f"{path} predicts {outputs.num_joints} joints, {data_set} has {min(known)}"
            )
        raise ValueError(
            f"{path} predicts {outputs.num_joints} joints, not COCO's 17 or CrowdPose's 14; name "
            f"the data set or a file of joints: joints=FILE.yaml, or DATASET.DATASET FILE.yaml"
        )
    spec, center = known[outputs.num_joints]
    data = {
        "DATASET": spec.name,
        "DATASET_TEST": spec.name,
        "NUM_JOINTS": outputs.num_joints,
        "WITH_CENTER": center,
        **FILES.get(spec.name, {}),
    }
    return outputs, data | ({"KEYPOINTS": spec.to_dict()} if spec.is_custom else {})


def _spec_of(data_set: str) -> KeypointSpec:
    """The joints of a data set, by its name or by a joints file."""
    if is_file(data_set):
        return read_joints(data_set, "DATASET.DATASET")
    return keypoints_of(CfgNode({"DATASET": {"DATASET": data_set}}), is_train=True)
