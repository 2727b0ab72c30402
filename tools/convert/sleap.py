"""SLEAP: .slp and .pkg.slp, read by sleap-io."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tools.convert.source import Item, Labels, Object, Skeleton


def read(source: Path, images: Path | None, split: str) -> Labels:
    """The frames that a person labelled; predicted instances are left out."""
    try:
        sleap_io = import_module("sleap_io")
    except ImportError:
        raise ValueError("SLEAP files are read by sleap-io: pip install sleap-io") from None
    if not source.is_file():
        raise ValueError(f"{source} is no file")
    try:
        labels = sleap_io.load_slp(str(source))
        if images:
            labels.replace_filenames(prefix_map=_folders(labels, images))
    except Exception as error:  # h5py's and sleap-io's; a damaged file can raise any
        raise ValueError(f"{source} cannot be read: {error}") from None
    if len(labels.skeletons) != 1:
        raise ValueError(f"{source} has {len(labels.skeletons)} skeletons; wanted one")
    skeleton = labels.skeletons[0]
    frames = [frame for frame in labels.labeled_frames if frame.user_instances]
    left_out = len(labels.labeled_frames) - len(frames)
    notes = (f"{left_out} frames have only predicted instances: left out",) if left_out else ()
    joints = tuple(skeleton.node_names)
    pairs = [sorted(pair, key=joints.index) for pair in skeleton.symmetry_names]
    return Labels(
        {split: [_item(frame, labels.videos.index(frame.video), source) for frame in frames]},
        {
            "": Skeleton(
                joints,
                limbs=tuple((a, b) for a, b in skeleton.edge_names),
                flips=tuple(
                    (a, b) for a, b in sorted(pairs, key=lambda pair: joints.index(pair[0]))
                ),
            )
        },
        notes,
    )


def _folders(labels: Any, images: Path) -> dict[str, str]:
    """Folder of each video -> `images`."""
    names = [video.filename for video in labels.videos]
    files = [one for name in names for one in (name if isinstance(name, list) else [name])]
    return {str(Path(name).parent): str(images) for name in files}


def _item(frame: Any, video: int, source: Path) -> Item:
    name = f"video{video}_frame{frame.frame_idx:06d}.png"
    where = f"{source}: {name}"
    objects = []
    for instance in frame.user_instances:
        xy = instance.numpy()  # (K, 2), NaN where a joint is not visible
        points = {
            joint: (float(x), float(y), 2)
            for joint, (x, y) in zip(instance.skeleton.node_names, xy, strict=True)
            if np.isfinite([x, y]).all()
        }
        objects.append(Object(points))
    return Item(name, where, partial(_png, frame, where), objects)


def _png(frame: Any, where: str) -> bytes:
    """The pixels of a frame as a PNG file."""
    try:
        pixels = np.asarray(frame.image)  # (H, W, 1 or 3)
    except Exception as error:  # of the reader of the video; which one, sleap-io decides
        message = f"{where}: {error}"[:300].replace("\n", " ")
        raise ValueError(f"{message}; if images were moved, give --images") from None
    pixels = pixels[..., ::-1] if pixels.shape[-1] == 3 else pixels
    return cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()
