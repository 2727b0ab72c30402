"""The networks of the paper's tables, where they are here, and what the paper says of them."""

from __future__ import annotations

from typing import NamedTuple


class Said(NamedTuple):
    """The paper's figures; None where it has none."""

    ap: float
    gmacs: float | None = None
    params: float | None = None  # millions
    # Batch 1 on Jetson Nano, Snapdragon 855 and Raspberry Pi 4B+.
    milliseconds: tuple[int, int, int] | None = None


class Row(NamedTuple):
    """One network of a table."""

    name: str
    experiment: str  # experiments/<this>.yaml; OPENPOSE has none
    arch: str | None  # <this>.json; None: the yaml describes the network
    said: Said


DEVICES = ("Nano", "855", "Pi 4")
OPENPOSE = "coco/lightweight_openpose"
XS, S, M, L = (f"mobile_configs/search-{size}" for size in ("XS", "S", "M", "L"))
HALF, ABLATION = "mobile_configs/prune-S", "experiments/crowd_pose/ablation"

TABLES = {
    "CrowdPose test": (
        Row(
            *("HigherHRNet-W48", "crowd_pose/higher_hrnet/w48", None),
            Said(65.9, 154.6, 63.8, (2101, 1532, 12302)),
        ),
        Row(
            *("HigherHRNet-W24", "crowd_pose/higher_hrnet/w24", None),
            Said(57.4, 25.3, 14.9, (330, 289, 1414)),
        ),
        Row(
            *("HigherHRNet-W16", "crowd_pose/higher_hrnet/w16", None),
            Said(50.4, 12.5, 7.2, (172, 170, 898)),
        ),
        Row(
            *("EfficientHRNet-H-1", "crowd_pose/efficient_hrnet/H-1", None),
            Said(56.3, 14.2, 13.0, (283, 267, 1229)),
        ),
        Row(
            *("EfficientHRNet-H-3", "crowd_pose/efficient_hrnet/H-3", None),
            Said(46.1, 4.3, 5.3, (111, 132, 544)),
        ),
        Row("LitePose-L", "crowd_pose/mobilenet/mobile", L, Said(61.9, 13.7)),
        Row("LitePose-M", "crowd_pose/mobilenet/mobile", M, Said(59.9, 7.8, None, (144, 97, 588))),
        Row("LitePose-S", "crowd_pose/mobilenet/mobile", S, Said(58.3, 5.0, None, (97, 76, 420))),
        Row("LitePose-XS", "crowd_pose/mobilenet/mobile", XS, Said(49.5, 1.2, None, (22, 27, 109))),
    ),
    "COCO val": (
        Row("EfficientHRNet-H-1", "coco/efficient_hrnet/H-1", None, Said(59.2, 14.4)),
        Row("EfficientHRNet-H-2", "coco/efficient_hrnet/H-2", None, Said(52.9, 7.9)),
        Row("EfficientHRNet-H-4", "coco/efficient_hrnet/H-4", None, Said(35.7, 2.2, 2.8)),
        Row("Lightweight OpenPose", OPENPOSE, None, Said(42.8, 9.0, 4.1, (155, 97, 562))),
        Row("LitePose-L", "coco/mobilenet/mobile", L, Said(62.5, 13.7)),
        Row("LitePose-M", "coco/mobilenet/mobile", M, Said(59.8, 7.8)),
        Row("LitePose-S", "coco/mobilenet/mobile", S, Said(56.8, 5.0)),
        Row("LitePose-XS", "coco/mobilenet/mobile", XS, Said(40.6, 1.2)),
    ),
    "Ablations, CrowdPose test": (
        Row("shrinking, base", "crowd_pose/higher_hrnet/w16", None, Said(50.4, 12.5)),
        Row("shrinking, step 1", "crowd_pose/higher_hrnet/shrink_1", None, Said(51.0, 10.1)),
        Row("shrinking, step 2", "crowd_pose/higher_hrnet/shrink_2", None, Said(51.8, 10.0)),
        Row("shrinking, step 3", "crowd_pose/higher_hrnet/shrink_3", None, Said(53.0, 9.2)),
        *(
            Row(f"0.5 LitePose, kernel {kernel}", "crowd_pose/ablation/scratch", arch, said)
            for kernel, arch, said in (
                (3, f"{ABLATION}/kernel_3", Said(41.7, 3.77)),
                (5, f"{ABLATION}/kernel_5", Said(50.7, 4.14)),
                (7, HALF, Said(54.7, 4.69)),
                (9, f"{ABLATION}/kernel_9", Said(53.3)),
            )
        ),
        Row("kernel 7, no fusion", "crowd_pose/ablation/no_fusion", HALF, Said(47.1, 4.06)),
    ),
}
# Of nearly equal AP: how many times as fast is the second?
PAIRS = (
    ("HigherHRNet-W24", "LitePose-S"),
    ("EfficientHRNet-H-1", "LitePose-S"),
    ("HigherHRNet-W16", "LitePose-XS"),
    ("EfficientHRNet-H-3", "LitePose-XS"),
)
