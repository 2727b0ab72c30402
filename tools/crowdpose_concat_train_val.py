"""Join CrowdPose's annotations for training and validation, as the paper trains on both.

    python -m tools.crowdpose_concat_train_val --data_dir data/crowd_pose

Reads json/crowdpose_train.json and json/crowdpose_val.json, writes json/crowdpose_trainval.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lib.dataset.reader import read_tree
from lib.utils import cli
from lib.utils.files import check_outputs, write_file


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data/crowd_pose"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    folder = parse_args(argv).data_dir / "json"
    train, val = folder / "crowdpose_train.json", folder / "crowdpose_val.json"
    target = folder / "crowdpose_trainval.json"
    check_outputs([target], [train, val])
    joined = join(train, val)
    write_file(target, json.dumps(joined))
    print(f"{target}: {len(joined['images'])} images, {len(joined['annotations'])} annotations")
    return 0


def join(train: Path, val: Path) -> dict[str, Any]:
    """One annotation tree with the entries of both files, in their order.

    ValueError when their categories differ or an image or annotation id comes twice.
    """
    first, second = read_tree(train), read_tree(val)
    if first.get("categories") != second.get("categories"):
        raise ValueError(f"{train} and {val} have different categories")
    for path, tree in ((train, first), (val, second)):
        if not isinstance(tree.get("annotations"), list):
            raise ValueError(f"{path} has no list of annotations")
        print(f"{path}: {len(tree['images'])} images, {len(tree['annotations'])} annotations")
    both = {key: first[key] + second[key] for key in ("images", "annotations")}
    for key, entries in both.items():
        kind, seen = key.removesuffix("s"), set()
        for entry in entries:
            number = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(number, int):
                raise ValueError(f"{train} and {val}: an {kind} has no id: {str(entry)[:60]}")
            if number in seen:
                raise ValueError(f"{train} and {val}: {kind} id {number} comes twice")
            seen.add(number)
    return first | both


if __name__ == "__main__":
    cli.run(main)
