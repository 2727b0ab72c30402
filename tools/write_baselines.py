"""Write the experiments of the baselines: HigherHRNet, its gradual shrinking, EfficientHRNet.

    python -m tools.write_baselines --out experiments

Nobody edits these files by hand; a test holds them to what this writes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Blocks = Sequence[Sequence[int]]  # of each branch of stages 2, 3 and 4, fine to coarse


class Experiment(NamedTuple):
    """One yaml file: experiments/<data set>/<family>/<name>.yaml"""

    data_set: str
    family: str
    name: str
    told: str  # what it is
    input_size: int
    extra: dict[str, Any]  # MODEL.EXTRA
    images_per_gpu: int = 12


BASE = ((4, 4), (4, 4, 4), (4, 4, 4, 4))
# Gradual shrinking (paper): the base channel, and blocks, of which the finer branches lose most.
SHRINKING = {
    "w16": (16, BASE),
    "shrink_1": (16, ((3, 4), (2, 3, 4), (1, 2, 3, 4))),
    "shrink_2": (18, ((1, 4), (1, 1, 4), (1, 1, 1, 4))),
    "shrink_3": (18, ((0, 4), (0, 0, 4), (0, 0, 0, 4))),
}
# phi -> width, depth, input, modules of stages 2, 3 and 4
SCALINGS = {
    -1: (0.909, 0.833, 480, (1, 3, 3)),
    -2: (0.826, 0.694, 448, (1, 2, 3)),
    -3: (0.751, 0.578, 416, (1, 1, 3)),
    -4: (0.684, 0.483, 384, (1, 1, 2)),
}
DATA_SETS = {
    "coco": {"ROOT": "data/coco"},
    "crowd_pose": {
        "ROOT": "data/crowd_pose",
        "DATASET": "crowd_pose_kpt",
        "DATASET_TEST": "crowd_pose",
        "TRAIN": "trainval",
        "TEST": "test",
        "NUM_JOINTS": 14,
    },
}


def stages(modules: Sequence[int], blocks: Blocks, channels: Sequence[int]) -> dict[str, Any]:
    """STAGE2, STAGE3 and STAGE4 of MODEL.EXTRA."""
    return {
        f"STAGE{2 + i}": {
            "NUM_MODULES": count,
            "NUM_BRANCHES": len(own),
            "BLOCK": "BASIC",
            "NUM_BLOCKS": list(own),
            "NUM_CHANNELS": list(channels[: len(own)]),
            "FUSE_METHOD": "SUM",
        }
        for i, (count, own) in enumerate(zip(modules, blocks, strict=True))
    }


def deconv(channels: int, blocks: int) -> dict[str, Any]:
    """DECONV of MODEL.EXTRA: one doubling, with the prediction before it."""
    return {
        "NUM_DECONVS": 1,
        "NUM_CHANNELS": [channels],
        "KERNEL_SIZE": [4],
        "CAT_OUTPUT": [True],
        "NUM_BASIC_BLOCKS": blocks,
    }


def higher_hrnet(width: int, blocks: Blocks, stem: int, head: dict[str, Any]) -> dict[str, Any]:
    """MODEL.EXTRA of a HigherHRNet whose finest branch is `width` wide."""
    channels = [width * 2**i for i in range(4)]
    return {"STEM_INPLANES": stem, **stages((1, 4, 3), blocks, channels), "DECONV": head}


def shrunk_hrnet(width: int, blocks: Blocks = BASE) -> dict[str, Any]:
    """MODEL.EXTRA of the paper's small HigherHRNets: narrow stem, no blocks in the head."""
    return higher_hrnet(width, blocks, stem=2 * width, head=deconv(32, blocks=0))


def published_hrnet(width: int) -> dict[str, Any]:
    """MODEL.EXTRA of HigherHRNet-W32 and W48 as released."""
    return higher_hrnet(width, BASE, stem=64, head=deconv(width, blocks=4))


def efficient_hrnet(phi: int) -> dict[str, Any]:
    """MODEL.EXTRA of EfficientHRNet H<phi>."""
    width, depth, _, modules = SCALINGS[phi]
    channels = [math.ceil(32 * 2**i * 1.2455**phi) for i in range(4)]
    return {
        "WIDTH_MULT": width,
        "DEPTH_MULT": depth,
        **stages(modules, [(2,) * branches for branches in (2, 3, 4)], channels),
        "DECONV": deconv(channels[0], blocks=2),
    }


def experiments() -> list[Experiment]:
    """All baselines."""
    found = []
    for name, (width, blocks) in SHRINKING.items():
        row = (name, "gradual shrinking", 512, shrunk_hrnet(width, blocks))
        found.append(Experiment("crowd_pose", "higher_hrnet", *row))
    row = ("w24", "the paper's W24", 512, shrunk_hrnet(24))
    found.append(Experiment("crowd_pose", "higher_hrnet", *row))
    for data_set in DATA_SETS:
        for width, size, batch in ((32, 512, 12), (48, 640, 10)):
            row = (f"w{width}", f"W{width} as released", size, published_hrnet(width), batch)
            found.append(Experiment(data_set, "higher_hrnet", *row))
        for phi, (_, _, size, _) in SCALINGS.items():
            row = (f"H{phi}", f"H{phi}", size, efficient_hrnet(phi))
            found.append(Experiment(data_set, "efficient_hrnet", *row))
    return found


def text_of(one: Experiment) -> str:
    """The yaml file, with the command that uses it."""
    network = {"higher_hrnet": "HigherHRNet", "efficient_hrnet": "EfficientHRNet"}[one.family]
    data_set = {"coco": "COCO", "crowd_pose": "CrowdPose"}[one.data_set]
    data = DATA_SETS[one.data_set]
    size = one.input_size
    model: dict[str, Any] = {"NAME": f"pose_{one.family}"}
    if "NUM_JOINTS" in data:
        model["NUM_JOINTS"] = data["NUM_JOINTS"]
    # Weights from ImageNet, or from other joints, start the backbone alone.
    model |= {"PRETRAINED_PARTS": "backbone", "EXTRA": one.extra}
    tree = {
        "DATASET": {**data, "INPUT_SIZE": size, "OUTPUT_SIZE": [size // 4, size // 2]},
        "MODEL": model,
        "TRAIN": {
            "END_EPOCH": 300,
            "IMAGES_PER_GPU": one.images_per_gpu,
            "LR": 0.001,
            "LR_STEP": [200, 260],
        },
    }
    path = f"experiments/{one.data_set}/{one.family}/{one.name}.yaml"
    head = (
        f"# {network} on {data_set}: {one.told}. Adam, 300 epochs, as HigherHRNet is trained.\n"
        f"# python dist_train.py --cfg {path}\n"
        "# Written by tools/write_baselines.py.\n"
    )
    return head + yaml.safe_dump(tree, default_flow_style=None, sort_keys=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("experiments"), help="folder")
    args = parser.parse_args()
    for one in experiments():
        path = args.out / one.data_set / one.family / f"{one.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(one))
        print(path)


if __name__ == "__main__":
    main()
