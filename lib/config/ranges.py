"""The values that each key accepts: one line for every key of default.py, in its order.

The limits are far beyond what anybody has trained with. They stop values that would end in the
middle of a run, in an allocation that fails, or in figures that mean nothing. What keys must be to
each other is in checks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lib.codec import CODECS

MANY = 10**9


class Range(NamedTuple):
    """What a key accepts."""

    accepted: str  # as a message says it: "a whole number from 0 to 10"
    accepts: Callable[[Any], bool]


def whole(least: int, most: int = MANY, step: int = 1) -> Range:
    """An int from `least` to `most` in steps."""
    steps = f" in steps of {step}" if step > 1 else ""
    return Range(
        f"a whole number from {least} to {most}{steps}",
        lambda value: type(value) is int and value in range(least, most + 1, step),
    )


def number(least: float, most: float = MANY) -> Range:
    """A number from `least` to `most`, which NaN and infinity are not."""
    return Range(
        f"a number from {least:g} to {most:g}",
        lambda value: type(value) in (int, float) and least <= value <= most,
    )


def below(most: float) -> Range:
    """A number from 0 to less than `most`."""
    return Range(
        f"a number from 0 to below {most:g}",
        lambda value: type(value) in (int, float) and 0 <= value < most,
    )


def choice(*values: Any) -> Range:
    """One of `values`."""
    return Range(
        f"one of {', '.join(map(str, values))}",
        lambda value: any(type(value) is type(one) and value == one for one in values),
    )


def entries(each: Range, least: int = 1, most: int = 100) -> Range:
    """A list of `least` to `most` entries."""
    return Range(
        f"a list of {least} to {most} entries, each {each.accepted}",
        lambda value: (
            isinstance(value, (list, tuple))
            and least <= len(value) <= most
            and all(map(each.accepts, value))
        ),
    )


def text(least: int) -> Range:
    """A name of files, folders or weights."""
    empty = "" if least else ', or ""'
    return Range(
        f"text of at most 1000 characters without control characters{empty}",
        lambda value: (
            isinstance(value, str)
            and least <= len(value) <= 1000
            and not any(ord(char) < 32 or ord(char) == 127 for char in value)
        ),
    )


def is_plain(value: Any) -> bool:
    """Whether `value` consists of finite numbers, text, True, False, None, lists and dicts."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (str, bool)) or number(-1e18, 1e18).accepts(value)


FLAG = Range("True or False", lambda value: isinstance(value, bool))
NETWORK = Range("a name", lambda value: isinstance(value, str) and value.isidentifier())
NAME, OPTIONAL_NAME = text(1), text(0)
SIGMA = Range("a whole number from 1 to 64, or -1", choice(-1, *range(1, 65)).accepts)
FACTORS = entries(number(0, 1e6))
PLAIN = Range("numbers, text, or lists of them", is_plain)  # keys that default.py does not list

RANGES = {
    "OUTPUT_DIR": OPTIONAL_NAME,
    "LOG_DIR": OPTIONAL_NAME,
    "DATA_DIR": OPTIONAL_NAME,
    "SEED": whole(0, 2**63 - 1),
    "GPUS": entries(whole(0, 1000)),
    "WORKERS": whole(0, 1000),
    "PRINT_FREQ": whole(0),
    "AUTO_RESUME": FLAG,
    "PIN_MEMORY": FLAG,
    "VERBOSE": FLAG,
    "DIST_BACKEND": choice("nccl", "gloo", "mpi", "ucc"),
    "DIST_TIMEOUT": number(1, 1e7),
    "MULTIPROCESSING_DISTRIBUTED": FLAG,
    "RANK": whole(0),
    "CUDNN.BENCHMARK": FLAG,
    "CUDNN.DETERMINISTIC": FLAG,
    "CUDNN.ENABLED": FLAG,
    "FP16.ENABLED": FLAG,
    "FP16.STATIC_LOSS_SCALE": number(2**-24, 2**24),
    "FP16.DYNAMIC_LOSS_SCALE": FLAG,
    "LOG.SINKS": entries(choice("tensorboard", "jsonl", "wandb", "mlflow"), least=0),
    #
    "MODEL.NAME": NETWORK,
    "MODEL.PRETRAINED": OPTIONAL_NAME,
    "MODEL.PRETRAINED_PARTS": choice("all", "not_final", "backbone"),
    "MODEL.INIT_WEIGHTS": FLAG,
    "MODEL.NUM_JOINTS": whole(1, 1000),
    "MODEL.TAG_PER_JOINT": FLAG,
    "MODEL.AE_TAG_DIMS": whole(1, 64),
    "MODEL.CODEC": choice(*CODECS),
    "MODEL.SYNC_BN": FLAG,
    "MODEL.FUSION_HEAD": FLAG,
    "MODEL.KERNEL_BRANCHES": FLAG,
    "MODEL.ELASTIC_KERNEL": FLAG,
    "MODEL.COMPILE": FLAG,
    "MODEL.CHANNELS_LAST": FLAG,
    "MODEL.EXTRA.NUM_DECONV_LAYERS": choice(3),
    "MODEL.EXTRA.NUM_DECONV_FILTERS": entries(whole(1, 8192), 3, 3),
    "MODEL.EXTRA.NUM_DECONV_KERNELS": entries(choice(2, 3, 4), 3, 3),
    #
    "SUPERNET.RATIOS": entries(number(0.01, 1)),
    "SUPERNET.SMALLEST": OPTIONAL_NAME,
    "SUPERNET.RESOLUTIONS": entries(whole(64, 4096, step=64)),
    "SUPERNET.EXPANSIONS": entries(whole(1, 64)),
    "SUPERNET.KERNELS": entries(whole(1, 63, step=2)),
    "SUPERNET.DEPTHS": entries(number(0.01, 1)),
    "SUPERNET.SAMPLING": choice("uniform", "sandwich"),
    "SUPERNET.SANDWICH_RANDOM": whole(0, 1000),
    "SUPERNET.IMITATION_FACTOR": number(0, 1e6),
    "SUPERNET.SORT_CHANNELS": FLAG,
    "SUPERNET.IMPORTANCE": choice("weights", "activation"),
    "SUPERNET.SORTING_IMAGES": whole(1),
    "SUPERNET.REFIT": FLAG,
    "SUPERNET.CALIBRATION_IMAGES": whole(1),
    #
    "TEACHER.INPUT_SIZE": whole(0, 4096, step=32),
    "TEACHER.HALF_PRECISION": FLAG,
    "TEACHER.SHARE": number(0.01, 1),
    "TEACHER.FLIP_TEST": FLAG,
    "TEACHER.TAGS_FACTOR": number(0),
    #
    "LOSS.NUM_STAGES": whole(1, 6),
    "LOSS.WITH_HEATMAPS_LOSS": entries(FLAG),
    "LOSS.HEATMAPS_LOSS_FACTOR": FACTORS,
    "LOSS.WAHR": FLAG,
    "LOSS.WITH_AE_LOSS": entries(FLAG),
    "LOSS.AE_LOSS_TYPE": choice("exp", "max"),
    "LOSS.PUSH_START": number(0, 1),
    "LOSS.PUSH_LOSS_FACTOR": FACTORS,
    "LOSS.PULL_LOSS_FACTOR": FACTORS,
    "LOSS.PUSH_EACH_DIM": FLAG,
    "LOSS.TAG_SIZE_FACTOR": number(0, 1e6),
    "LOSS.FLIP_CONSISTENCY": number(0, 1e6),
    "LOSS.FLIP_SHARE": number(0.01, 1),
    #
    "DATASET.ROOT": NAME,
    "DATASET.DATASET": NAME,
    "DATASET.DATASET_TEST": NAME,
    "DATASET.KEYPOINTS": Range(
        "the keys of a joints file", lambda value: isinstance(value, Mapping) and is_plain(value)
    ),
    "DATASET.TRAIN": NAME,
    "DATASET.TEST": NAME,
    "DATASET.MIX": entries(
        Range(
            "a mapping with ROOT and, where they differ from DATASET's, DATASET, TRAIN and WEIGHT",
            lambda value: isinstance(value, Mapping) and is_plain(value),
        ),
        least=0,
    ),
    "DATASET.DATA_FORMAT": choice("jpg", "zip"),
    "DATASET.CACHE": OPTIONAL_NAME,
    "DATASET.UNREADABLE": choice("raise", "skip"),
    "DATASET.MAX_IMAGES": whole(0),
    "DATASET.WITH_BACKGROUND": FLAG,
    "DATASET.MIN_LABELLED_JOINTS": whole(0, 1000),
    "DATASET.NUM_JOINTS": whole(1, 1000),
    "DATASET.MAX_NUM_PEOPLE": whole(1, 1000),
    "DATASET.WITH_CENTER": FLAG,
    "DATASET.INPUT_SIZE": whole(32, 4096, step=32),
    "DATASET.OUTPUT_SIZE": entries(whole(8, 2**17)),
    "DATASET.SCALE_TYPE": choice("short", "long"),
    "DATASET.MIN_SCALE": number(0.05, 20),
    "DATASET.MAX_SCALE": number(0.05, 20),
    "DATASET.MAX_ROTATION": whole(0, 360),
    "DATASET.MAX_TRANSLATE": whole(0, 10_000),
    "DATASET.FLIP": number(0, 1),
    "DATASET.SMALL_PEOPLE": number(0, 1),
    "DATASET.BRIGHTNESS": number(0, 1),
    "DATASET.CONTRAST": number(0, 1),
    "DATASET.SATURATION": number(0, 1),
    "DATASET.HUE": number(0, 180),
    "DATASET.GRAY": number(0, 1),
    "DATASET.BLUR": number(0, 1),
    "DATASET.JPEG": number(0, 1),
    "DATASET.DROP_JOINTS": number(0, 1),
    "DATASET.SIGMA": SIGMA,
    "DATASET.SCALE_AWARE_SIGMA": FLAG,
    "DATASET.BASE_SIGMA": number(0.1, 64),
    "DATASET.BASE_SIZE": number(8, 10_000),
    "DATASET.INT_SIGMA": FLAG,
    #
    "TRAIN.IMAGES_PER_GPU": Range(
        "a whole number from 1 to 65536, or auto",
        lambda value: value == "auto" or whole(1, 2**16).accepts(value),
    ),
    "TRAIN.BEGIN_EPOCH": whole(0),
    "TRAIN.END_EPOCH": whole(1),
    "TRAIN.SHUFFLE": FLAG,
    "TRAIN.PROGRESSIVE": entries(
        Range(
            "[share of the epochs, input size], from 0.001 to 0.999 and from 32 to 4096 in steps "
            "of 32",
            lambda value: (
                isinstance(value, (list, tuple))
                and len(value) == 2
                and number(0.001, 0.999).accepts(value[0])
                and whole(32, 4096, step=32).accepts(value[1])
            ),
        ),
        least=0,
    ),
    "TRAIN.OPTIMIZER": choice("adam", "sgd"),
    "TRAIN.LR": number(1e-12, 1000),
    "TRAIN.LR_BATCH": whole(0),
    "TRAIN.LR_SCHEDULE": choice("multistep", "cosine"),
    "TRAIN.LR_FACTOR": number(1e-6, 1),
    "TRAIN.LR_STEP": entries(number(0), least=0),
    "TRAIN.WARMUP_EPOCHS": number(0),
    "TRAIN.MOMENTUM": below(1),
    "TRAIN.NESTEROV": FLAG,
    "TRAIN.WD": number(0, 10),
    "TRAIN.GAMMA1": number(-MANY),
    "TRAIN.GAMMA2": number(-MANY),
    "TRAIN.RESUME": FLAG,
    "TRAIN.CHECKPOINT": OPTIONAL_NAME,
    "TRAIN.ACCUMULATE": whole(1, 2**16),
    "TRAIN.CLIP_NORM": number(0),
    "TRAIN.EMA": below(1),
    "TRAIN.FREEZE_NORMS": FLAG,
    "TRAIN.NON_FINITE": choice("raise", "skip"),
    "TRAIN.SAVE_EVERY": whole(0),
    "TRAIN.SAVE_STEPS": whole(0),
    "TRAIN.KEEP": whole(1, 1000),
    "TRAIN.VALIDATE_EVERY": whole(0),
    "TRAIN.PATIENCE": whole(0),
    #
    "TEST.MODEL_FILE": OPTIONAL_NAME,
    "TEST.IMAGES_PER_GPU": whole(1, 2**16),
    "TEST.FLIP_TEST": FLAG,
    "TEST.MASK_BORDERS": FLAG,
    "TEST.SCALE_TYPE": choice("short", "long"),
    "TEST.SCALE_FACTOR": entries(number(0.1, 4)),
    "TEST.WITH_HEATMAPS": entries(FLAG),
    "TEST.WITH_AE": entries(FLAG),
    "TEST.PROJECT2IMAGE": FLAG,
    "TEST.NMS_KERNEL": whole(1, 255, step=2),
    "TEST.NMS_PADDING": whole(0, 127),
    "TEST.DETECTION_THRESHOLD": number(0),
    "TEST.TAG_THRESHOLD": number(1e-3),
    "TEST.USE_DETECTION_VAL": FLAG,
    "TEST.IGNORE_TOO_MUCH": FLAG,
    "TEST.IGNORE_CENTER": FLAG,
    "TEST.ADJUST": FLAG,
    "TEST.REFINE": FLAG,
    "TEST.LOG_PROGRESS": FLAG,
    #
    "DEBUG.DEBUG": FLAG,
    "DEBUG.SAVE_BATCH_IMAGES_GT": FLAG,
    "DEBUG.SAVE_BATCH_IMAGES_PRED": FLAG,
    "DEBUG.SAVE_HEATMAPS_GT": FLAG,
    "DEBUG.SAVE_HEATMAPS_PRED": FLAG,
    "DEBUG.SAVE_TAGMAPS_PRED": FLAG,
}
