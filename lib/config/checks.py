"""Checks of keys that depend on each other (ranges.py: of each alone); errors name both."""

from __future__ import annotations

import functools

from yacs.config import CfgNode

from lib.config.ranges import RANGES
from lib.keypoints import keypoints_of
from lib.utils.mix import mix_of
from lib.utils.text import brief

PER_STAGE = {  # lists with one entry per output stage
    "LOSS": (
        "WITH_HEATMAPS_LOSS",
        "HEATMAPS_LOSS_FACTOR",
        "WITH_AE_LOSS",
        "PUSH_LOSS_FACTOR",
        "PULL_LOSS_FACTOR",
    ),
    "TEST": ("WITH_HEATMAPS", "WITH_AE"),
    "DATASET": ("OUTPUT_SIZE",),
}


def check_config(cfg: CfgNode) -> None:
    """ValueError for settings out of range, or that contradict one another."""
    for key, wanted in RANGES.items():  # also of values that no file names: derived, an argument
        value = functools.reduce(lambda node, name: node[name], key.split("."), cfg)
        if not wanted.accepts(value):
            raise ValueError(f"{key} is {brief(value)}; must be {wanted.accepted}")
    stages = cfg.LOSS.NUM_STAGES
    for node, names in PER_STAGE.items():
        for name in names:
            entries = len(cfg[node][name])
            if entries != stages:
                raise ValueError(
                    f"{node}.{name} has {entries} entries, LOSS.NUM_STAGES is {stages}"
                )
    if cfg.MODEL.KERNEL_BRANCHES and cfg.MODEL.NAME != "pose_mobilenet":
        raise ValueError(
            f"MODEL.KERNEL_BRANCHES is for pose_mobilenet, MODEL.NAME is {cfg.MODEL.NAME}"
        )
    if cfg.MODEL.AE_TAG_DIMS > 1 and not cfg.MODEL.TAG_PER_JOINT:
        raise ValueError(
            f"MODEL.AE_TAG_DIMS is {cfg.MODEL.AE_TAG_DIMS}, but MODEL.TAG_PER_JOINT is False; one "
            "tag map for all joints has one dimension"
        )
    _check_order(cfg)
    _check_losses(cfg)
    _check_joints(cfg)
    mix_of(cfg)
    _check_sizes(cfg)
    _check_decoding(cfg)


def map_sizes(input_size: int, stages: int) -> list[int]:
    """A quarter of the input for the first output, and twice as large for each further one."""
    return [input_size // 4 * 2**stage for stage in range(stages)]


def _check_order(cfg: CfgNode) -> None:
    """Pairs of keys of which one bounds the other."""
    data, train = cfg.DATASET, cfg.TRAIN
    if data.MIN_SCALE > data.MAX_SCALE:
        raise ValueError(
            f"DATASET.MIN_SCALE is {data.MIN_SCALE}, above DATASET.MAX_SCALE {data.MAX_SCALE}"
        )
    if train.BEGIN_EPOCH >= train.END_EPOCH:
        raise ValueError(
            f"TRAIN.BEGIN_EPOCH is {train.BEGIN_EPOCH}, not below TRAIN.END_EPOCH {train.END_EPOCH}"
        )
    if train.NESTEROV and not train.MOMENTUM:
        raise ValueError("TRAIN.NESTEROV is True, TRAIN.MOMENTUM 0; Nesterov needs a momentum")
    if train.PATIENCE and not train.VALIDATE_EVERY:
        raise ValueError(
            f"TRAIN.PATIENCE is {train.PATIENCE}, TRAIN.VALIDATE_EVERY 0; it counts evaluations"
        )
    if data.MIN_LABELLED_JOINTS > data.NUM_JOINTS:
        raise ValueError(
            f"DATASET.MIN_LABELLED_JOINTS is {data.MIN_LABELLED_JOINTS}, above DATASET.NUM_JOINTS "
            f"{data.NUM_JOINTS}"
        )


def _check_losses(cfg: CfgNode) -> None:
    """There must be something to train."""
    loss = cfg.LOSS
    heatmaps = zip(loss.HEATMAPS_LOSS_FACTOR, loss.WITH_HEATMAPS_LOSS, strict=True)
    tags = zip(loss.PUSH_LOSS_FACTOR, loss.PULL_LOSS_FACTOR, loss.WITH_AE_LOSS, strict=True)
    terms = [a * on for a, on in heatmaps] + [(a + b) * on for a, b, on in tags]
    if not any(terms):
        raise ValueError("LOSS.* switch off every loss, or their factors are 0")
    if loss.PUSH_START and loss.AE_LOSS_TYPE != "exp":
        raise ValueError(
            f"LOSS.PUSH_START is {loss.PUSH_START}, but LOSS.AE_LOSS_TYPE is {loss.AE_LOSS_TYPE}; "
            "it changes exp alone"
        )
    if loss.PUSH_EACH_DIM and cfg.MODEL.AE_TAG_DIMS == 1:
        raise ValueError("LOSS.PUSH_EACH_DIM is True, but MODEL.AE_TAG_DIMS is 1")
    if loss.TAG_SIZE_FACTOR and cfg.MODEL.AE_TAG_DIMS == 1:
        raise ValueError(
            f"LOSS.TAG_SIZE_FACTOR is {loss.TAG_SIZE_FACTOR}, but MODEL.AE_TAG_DIMS is 1; sizes "
            "need tags of several dimensions"
        )


def _check_joints(cfg: CfgNode) -> None:
    """Data sets and numbers of joints must agree."""
    data = cfg.DATASET
    specs = {key: keypoints_of(cfg, key == "DATASET") for key in ("DATASET", "DATASET_TEST")}
    for key, spec in specs.items():
        if data.NUM_JOINTS != spec.num_joints + data.WITH_CENTER:
            center = " plus the center (DATASET.WITH_CENTER)" if data.WITH_CENTER else ""
            raise ValueError(
                f"DATASET.NUM_JOINTS is {data.NUM_JOINTS}, but "
                f"DATASET.{key} {data[key]!r} has {spec.num_joints} joints{center}"
            )
        if data.WITH_CENTER and "center" in spec.joints:
            raise ValueError(f"DATASET.WITH_CENTER: {data[key]!r} already has a joint named center")
    if specs["DATASET"].joints != specs["DATASET_TEST"].joints:
        raise ValueError(
            f"DATASET.DATASET {data.DATASET!r} and DATASET.DATASET_TEST {data.DATASET_TEST!r} "
            f"have different joints"
        )
    if cfg.MODEL.NUM_JOINTS != data.NUM_JOINTS:
        raise ValueError(
            f"MODEL.NUM_JOINTS is {cfg.MODEL.NUM_JOINTS}, "
            f"DATASET.NUM_JOINTS is {data.NUM_JOINTS}; they must be equal"
        )


def _check_sizes(cfg: CfgNode) -> None:
    size = cfg.DATASET.INPUT_SIZE
    maps = map_sizes(size, cfg.LOSS.NUM_STAGES)
    if list(cfg.DATASET.OUTPUT_SIZE) != maps:
        raise ValueError(
            f"DATASET.OUTPUT_SIZE is {list(cfg.DATASET.OUTPUT_SIZE)}; "
            f"the maps of DATASET.INPUT_SIZE {size} are {maps}"
        )


def _check_decoding(cfg: CfgNode) -> None:
    test, kernel = cfg.TEST, cfg.TEST.NMS_KERNEL
    if len(test.SCALE_FACTOR) > 1 and 1 not in test.SCALE_FACTOR:
        raise ValueError(
            f"TEST.SCALE_FACTOR is {list(test.SCALE_FACTOR)}; several scales must have 1 among "
            f"them, whose tags are used"
        )
    # The smallest input has sides of 64, 128, ...; LitePose's maps are 1/16 of it, HRNet's 1/32.
    stride, smallest = 32 if "hrnet" in cfg.MODEL.NAME else 16, min(test.SCALE_FACTOR)
    for factor in test.SCALE_FACTOR:
        steps = 64 / stride * factor / smallest
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"TEST.SCALE_FACTOR is {list(test.SCALE_FACTOR)}; the sides of inputs must be "
                f"multiples of {stride}: {factor} is no multiple of {stride / 64:g} x {smallest}"
            )
    if not any(test.WITH_HEATMAPS) or not any(test.WITH_AE):
        raise ValueError("TEST.WITH_HEATMAPS and TEST.WITH_AE must each switch on some stage")
    for stage, (used, trained) in enumerate(zip(test.WITH_AE, cfg.LOSS.WITH_AE_LOSS, strict=True)):
        if used and not trained:
            raise ValueError(
                f"TEST.WITH_AE uses tags of stage {stage}, but LOSS.WITH_AE_LOSS trains none there"
            )
    if test.NMS_PADDING != kernel // 2:
        raise ValueError(
            f"TEST.NMS_PADDING is {test.NMS_PADDING}; with TEST.NMS_KERNEL {kernel} it must be "
            f"{kernel // 2}"
        )
