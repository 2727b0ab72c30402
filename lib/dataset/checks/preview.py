"""A page of training images: the annotations next to the crops and targets made of them."""

from __future__ import annotations

import cv2
import numpy as np

from lib.codec import Codec
from lib.dataset.image_files import ImageRecord, ReadError
from lib.dataset.pose_dataset import PoseDataset
from lib.dataset.reader import ignore_mask
from lib.dataset.samples import Sample, collate
from lib.dataset.target_generators import make_targets
from lib.keypoints import KeypointSpec
from lib.utils.vis import caption, draw_people, tile

RED, YELLOW, WHITE = (220, 40, 40), (255, 240, 0), (255, 255, 255)
SMALLEST = 320  # pixels, side of a rendered crop: captions need room


def draw_page(dataset: PoseDataset, codec: Codec, count: int) -> np.ndarray:
    """(H, W, 3): `count` images with people, evenly spaced in the data set, as in epoch 0.

    Images that cannot be read are left out.
    """
    with_people = [i for i, record in enumerate(dataset.records) if len(record.joints)]
    candidates = with_people or range(len(dataset))
    step = max(1, len(candidates) // count)
    views = []
    for index in candidates[::step][:count]:
        try:
            views.append(draw_views(dataset, codec, index))
        except ReadError:
            continue
    if not views:
        raise ValueError(f"none of the images in {dataset.files.path} can be read")
    return tile(views, columns=2, gap=12)


def draw_views(dataset: PoseDataset, codec: Codec, index: int) -> np.ndarray:
    """One image next to its crop of epoch 0, equally high, both with a caption."""
    record = dataset.records[index]
    image = dataset.files.read(record)
    sample = dataset.sample(record, image, key=(0, index))
    size = max(SMALLEST, sample.image.shape[0])
    counts = f"people: {len(record.joints)}, ignored regions: {len(record.ignore)}"
    left = fit(draw_annotations(record, image, dataset.spec), size * 4 // 3, size)
    left = caption(left, f"image {record.id}; {counts}")
    targets = draw_targets(sample, dataset.spec, codec)
    right = caption(fit(targets, size, size), ", ".join(sample.steps))
    return np.concatenate([left, np.full((len(left), 4, 3), 255, np.uint8), right], axis=1)


def draw_annotations(record: ImageRecord, image: np.ndarray, spec: KeypointSpec) -> np.ndarray:
    """The image with boxes and skeletons; red where no loss counts."""
    canvas = tint(image, ignore_mask(record) == 0)
    width = max(1, round(max(image.shape[:2]) / 500))
    for x, y, w, h in record.boxes.round().astype(int).tolist():
        cv2.rectangle(canvas, (x, y), (x + w, y + h), WHITE, width, cv2.LINE_AA)
    return draw_people(canvas, record.joints, spec)


def draw_targets(sample: Sample, spec: KeypointSpec, codec: Codec) -> np.ndarray:
    """The crop with its people and the targets of the finest stage; red: no heatmap loss."""
    batch = collate([sample])
    targets = make_targets(
        joints=batch.joints,
        flipped=batch.flipped,
        sigmas=batch.sigmas,
        masks=batch.masks,
        crop_size=sample.image.shape[0],
        codec=codec,
    )
    size = (sample.image.shape[1], sample.image.shape[0])
    counts = cv2.resize(sample.masks[-1].astype(np.uint8), size)
    people = draw_people(tint(sample.image, counts == 0), sample.joints, spec)
    heatmap = targets.heatmaps[-1][0].amax(dim=0).numpy()  # (h, w), 0 to 1
    glow = 0.8 * cv2.resize(heatmap, size)[..., None]
    return (people * (1 - glow) + np.array(YELLOW) * glow).astype(np.uint8)


def tint(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A copy of `image` (H, W, 3), half red where the mask `where` (H, W) is set."""
    canvas = image.copy()
    canvas[where] = canvas[where] // 2 + np.array(RED, np.uint8) // 2
    return canvas


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The whole of `image` in the middle of a white (height, width, 3)."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    canvas = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small
    return canvas
