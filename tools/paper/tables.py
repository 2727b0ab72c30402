"""The networks of the paper's tables, their experiments here, and the paper's figures."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One network of a table; figures are the paper's, None where it has none."""

    name: str
    experiment: str  # experiments/<this>.yaml; OPENPOSE has none
    ap: float
    gmacs: float | None = None
    params: float | None = None  # millions
    milliseconds: tuple[int, int, int] | None = None  # batch 1, on DEVICES
    arch: str | None = None  # <this>.json; None: the yaml describes the network


DEVICES = ("Nano", "855", "Pi 4")  # Jetson Nano, Snapdragon 855 and Raspberry Pi 4B+
OPENPOSE = "coco/lightweight_openpose"
HRNET, EFFICIENT = "crowd_pose/higher_hrnet", "crowd_pose/efficient_hrnet"
CROWD_POSE, COCO = "crowd_pose/mobilenet/mobile", "coco/mobilenet/mobile"
XS, S, M, L = (f"mobile_configs/search-{size}" for size in ("XS", "S", "M", "L"))
HALF, KERNEL = "mobile_configs/prune-S", "experiments/crowd_pose/ablation/kernel"
SCRATCH, NO_FUSION = "crowd_pose/ablation/scratch", "crowd_pose/ablation/no_fusion"

TABLES = {
    "CrowdPose test": (
        Row("HigherHRNet-W48", f"{HRNET}/w48", 65.9, 154.6, 63.8, (2101, 1532, 12302)),
        Row("HigherHRNet-W24", f"{HRNET}/w24", 57.4, 25.3, 14.9, (330, 289, 1414)),
        Row("HigherHRNet-W16", f"{HRNET}/w16", 50.4, 12.5, 7.2, (172, 170, 898)),
        Row("EfficientHRNet-H-1", f"{EFFICIENT}/H-1", 56.3, 14.2, 13.0, (283, 267, 1229)),
        Row("EfficientHRNet-H-3", f"{EFFICIENT}/H-3", 46.1, 4.3, 5.3, (111, 132, 544)),
        Row("LitePose-L", CROWD_POSE, 61.9, 13.7, arch=L),
        Row("LitePose-M", CROWD_POSE, 59.9, 7.8, milliseconds=(144, 97, 588), arch=M),
        Row("LitePose-S", CROWD_POSE, 58.3, 5.0, milliseconds=(97, 76, 420), arch=S),
        Row("LitePose-XS", CROWD_POSE, 49.5, 1.2, milliseconds=(22, 27, 109), arch=XS),
    ),
    "COCO val": (
        Row("EfficientHRNet-H-1", "coco/efficient_hrnet/H-1", 59.2, 14.4),
        Row("EfficientHRNet-H-2", "coco/efficient_hrnet/H-2", 52.9, 7.9),
        Row("EfficientHRNet-H-4", "coco/efficient_hrnet/H-4", 35.7, 2.2, 2.8),
        Row("Lightweight OpenPose", OPENPOSE, 42.8, 9.0, 4.1, (155, 97, 562)),
        Row("LitePose-L", COCO, 62.5, 13.7, arch=L),
        Row("LitePose-M", COCO, 59.8, 7.8, arch=M),
        Row("LitePose-S", COCO, 56.8, 5.0, arch=S),
        Row("LitePose-XS", COCO, 40.6, 1.2, arch=XS),
    ),
    "Ablations, CrowdPose test": (
        Row("shrinking, base", f"{HRNET}/w16", 50.4, 12.5),
        Row("shrinking, step 1", f"{HRNET}/shrink_1", 51.0, 10.1),
        Row("shrinking, step 2", f"{HRNET}/shrink_2", 51.8, 10.0),
        Row("shrinking, step 3", f"{HRNET}/shrink_3", 53.0, 9.2),
        Row("0.5 LitePose, kernel 3", SCRATCH, 41.7, 3.77, arch=f"{KERNEL}_3"),
        Row("0.5 LitePose, kernel 5", SCRATCH, 50.7, 4.14, arch=f"{KERNEL}_5"),
        Row("0.5 LitePose, kernel 7", SCRATCH, 54.7, 4.69, arch=HALF),
        Row("0.5 LitePose, kernel 9", SCRATCH, 53.3, arch=f"{KERNEL}_9"),
        Row("kernel 7, no fusion", NO_FUSION, 47.1, 4.06, arch=HALF),
    ),
}
PAIRS = (  # (slow, fast) of nearly equal AP, whose speed-up the paper reports
    ("HigherHRNet-W24", "LitePose-S"),
    ("EfficientHRNet-H-1", "LitePose-S"),
    ("HigherHRNet-W16", "LitePose-XS"),
    ("EfficientHRNet-H-3", "LitePose-XS"),
)
