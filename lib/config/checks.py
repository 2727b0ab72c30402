"""Checks of a config; each error names the key, its value and the accepted values."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from lib.codec import CODECS
from lib.keypoints import keypoints_of

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
CHOICES = {
    "MODEL.PRETRAINED_PARTS": ("all", "not_final", "backbone"),
    "MODEL.CODEC": tuple(CODECS),
    "LOSS.AE_LOSS_TYPE": ("exp", "max"),
    "DATASET.DATA_FORMAT": ("jpg", "zip"),
    "DATASET.SCALE_TYPE": ("short", "long"),
    "SUPERNET.SAMPLING": ("uniform", "sandwich"),
    "TEST.SCALE_TYPE": ("short", "long"),
    "DATASET.UNREADABLE": ("raise", "skip"),
    "TRAIN.OPTIMIZER": ("adam", "sgd"),
    "TRAIN.NON_FINITE": ("raise", "skip"),
    "TRAIN.LR_SCHEDULE": ("multistep", "cosine"),
}
AT_LEAST = {
    "TEST.IMAGES_PER_GPU": 1,
    "TEST.DETECTION_THRESHOLD": 0,
    "TRAIN.ACCUMULATE": 1,
    "TRAIN.CLIP_NORM": 0,
    "TRAIN.KEEP": 1,
    "TRAIN.SAVE_STEPS": 0,
}


def check_config(cfg: CfgNode) -> None:
    """ValueError for settings that contradict one another."""
    stages = cfg.LOSS.NUM_STAGES
    for node, names in PER_STAGE.items():
        for name in names:
            entries = len(cfg[node][name])
            if entries != stages:
                raise ValueError(
                    f"{node}.{name} has {entries} entries, LOSS.NUM_STAGES is {stages}"
                )
    for key, allowed in CHOICES.items():
        if _value(cfg, key) not in allowed:
            raise ValueError(f"{key} is {_value(cfg, key)!r}; possible: {', '.join(allowed)}")
    for key, least in AT_LEAST.items():
        if _value(cfg, key) < least:
            raise ValueError(f"{key} is {_value(cfg, key)}; must be at least {least}")
    if not 0 <= cfg.TRAIN.EMA < 1:
        raise ValueError(f"TRAIN.EMA is {cfg.TRAIN.EMA}; must be at least 0 and below 1")
    if cfg.DIST_TIMEOUT <= 0:
        raise ValueError(f"DIST_TIMEOUT is {cfg.DIST_TIMEOUT}; it must be more than 0 seconds")
    _check_joints(cfg)
    _check_sizes(cfg)
    _check_decoding(cfg)


def map_sizes(input_size: int, stages: int) -> list[int]:
    """A quarter of the input for the first output, and twice as large for each further one."""
    return [input_size // 4 * 2**stage for stage in range(stages)]


def _value(cfg: CfgNode, key: str) -> Any:
    node, name = key.split(".")
    return cfg[node][name]


def _check_joints(cfg: CfgNode) -> None:
    """Data sets and numbers of joints must agree."""
    data = cfg.DATASET
    specs = {key: keypoints_of(cfg, key == "DATASET") for key in ("DATASET", "DATASET_TEST")}
    for key, spec in specs.items():
        if data.NUM_JOINTS != spec.num_joints + data.WITH_CENTER:
            center = " plus the center" if data.WITH_CENTER else ""
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
    size, extra = cfg.DATASET.INPUT_SIZE, cfg.MODEL.EXTRA
    if size < 32 or size % 32:
        raise ValueError(f"DATASET.INPUT_SIZE is {size}; it must be a positive multiple of 32")
    maps = map_sizes(size, cfg.LOSS.NUM_STAGES)
    if list(cfg.DATASET.OUTPUT_SIZE) != maps:
        raise ValueError(
            f"DATASET.OUTPUT_SIZE is {list(cfg.DATASET.OUTPUT_SIZE)}; "
            f"the maps of DATASET.INPUT_SIZE {size} are {maps}"
        )
    if len(extra.NUM_DECONV_KERNELS) != extra.NUM_DECONV_LAYERS:
        raise ValueError(
            f"MODEL.EXTRA.NUM_DECONV_KERNELS has {len(extra.NUM_DECONV_KERNELS)} entries, "
            f"MODEL.EXTRA.NUM_DECONV_LAYERS is {extra.NUM_DECONV_LAYERS}"
        )


def _check_decoding(cfg: CfgNode) -> None:
    test, kernel = cfg.TEST, cfg.TEST.NMS_KERNEL
    if not test.SCALE_FACTOR:
        raise ValueError("TEST.SCALE_FACTOR is empty; [1] is the single-scale test")
    if not any(test.WITH_HEATMAPS) or not any(test.WITH_AE):
        raise ValueError("TEST.WITH_HEATMAPS and TEST.WITH_AE must each switch on some stage")
    for stage, (used, trained) in enumerate(zip(test.WITH_AE, cfg.LOSS.WITH_AE_LOSS, strict=True)):
        if used and not trained:
            raise ValueError(
                f"TEST.WITH_AE uses tags of stage {stage}, but LOSS.WITH_AE_LOSS trains none there"
            )
    if kernel < 1 or kernel % 2 == 0 or test.NMS_PADDING != kernel // 2:
        raise ValueError(
            f"TEST.NMS_KERNEL is {kernel} and TEST.NMS_PADDING {test.NMS_PADDING}; the kernel must "
            f"be odd, the padding half of it, rounded down"
        )
