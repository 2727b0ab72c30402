"""Writes the scalars of a run, and to TensorBoard images of inputs, ground truth, predictions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from yacs.config import CfgNode

from lib.analysis.sheet import contact_sheet
from lib.core.images import resize_maps
from lib.core.inference import InferenceSettings, stage_maps
from lib.core.meter import StepResult
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.keypoints import keypoints_of
from lib.training.scalars import SCALARS, append_scalars, truncate_scalars
from lib.utils.vis import draw_heatmaps, draw_people, tile

logger = logging.getLogger(__name__)

BATCH_IMAGES = 4  # images rendered of a batch
SHEET_IMAGES = 8  # images rendered of an evaluation
IMAGES_EVERY = 10  # log lines (PRINT_FREQ) between two renderings of a batch
VIEWS = {  # tag in TensorBoard -> key of DEBUG
    "ground_truth/people": "SAVE_BATCH_IMAGES_GT",
    "prediction/people": "SAVE_BATCH_IMAGES_PRED",
    "ground_truth/heatmaps": "SAVE_HEATMAPS_GT",
    "prediction/heatmaps": "SAVE_HEATMAPS_PRED",
    "prediction/tags": "SAVE_TAGMAPS_PRED",
}


class Board:
    """Writes scalars.jsonl in `output_dir` and, where tensorboard is installed, files in `log_dir`.

    DEBUG.* chooses the images. A run that resumes after `step` removes scalars of later steps.
    """

    def __init__(self, cfg: CfgNode, log_dir: Path, output_dir: Path, step: int = 0) -> None:
        self.settings = InferenceSettings.from_config(cfg)
        self.spec = keypoints_of(cfg, is_train=True)
        self.has_images = cfg.DEBUG.DEBUG
        self.views = [name for name, key in VIEWS.items() if cfg.DEBUG[key]]
        self.writer = open_tensorboard(log_dir, step)
        self.log = output_dir / SCALARS
        self.prints = 0
        truncate_scalars(self.log, step)

    def training(self, step: int, values: Mapping[str, float], result: StepResult) -> None:
        """Write `values` as train/NAME; every IMAGES_EVERY calls, some images too."""
        self.scalars(step, {f"train/{name}": value for name, value in values.items()})
        self.prints += 1
        if not (self.writer and self.has_images) or self.prints % IMAGES_EVERY != 1:
            return
        count = min(BATCH_IMAGES, len(result.batches[0].images))
        images = [self._draw(i, result) for i in range(count)]
        for name in self.views:
            sheet = tile([views[name] for views in images], columns=BATCH_IMAGES)
            self.writer.add_image(name, sheet, step, dataformats="HWC")
        if arch := result.archs[0]:
            self.writer.add_text("prediction/architecture", arch.summary, step)

    def evaluation(
        self,
        step: int,
        table: Mapping[str, float],
        data: EvaluationSet,
        predictions: Sequence[Prediction],
    ) -> None:
        """Write the AP table as val/NAME, and an image of SHEET_IMAGES images with people first."""
        self.scalars(step, {f"val/{name}": value for name, value in table.items()})
        if self.writer and self.has_images and predictions:
            people_first = sorted(data.records, key=lambda record: not len(record.joints))
            sheet = contact_sheet(data._replace(records=people_first), predictions, SHEET_IMAGES)
            self.writer.add_image("val/people", sheet, step, dataformats="HWC")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point on each curve; spaces in names become "_"."""
        values = {name.replace(" ", "_"): value for name, value in values.items()}
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
        append_scalars(self.log, step, values)

    def close(self) -> None:
        if self.writer:
            self.writer.close()

    def _draw(self, i: int, result: StepResult) -> dict[str, np.ndarray]:
        """{tag of VIEWS: (H, W, 3) uint8 RGB} of image `i` of the batch."""
        batch = result.batches[0]
        image, joints = batch.images[i].cpu().numpy(), batch.joints[i].cpu().numpy()
        size = result.outputs[-1].shape[2:]
        resized = [resize_maps(output[i : i + 1], size) for output in result.outputs]
        heatmaps, tags = stage_maps(self.settings, resized)
        grouped = self.settings.group.num_joints  # joints, without an ignored center
        [people], _ = self.settings.parser.parse(
            heatmaps[:, :grouped], tags[0][:, :grouped, ..., None]
        )
        people[..., :2] *= image.shape[0] / size[0]  # map pixels -> crop pixels
        target, predicted = result.targets.heatmaps[-1][i], heatmaps[0, : self.settings.num_joints]
        return {
            "ground_truth/people": draw_people(image, joints, self.spec),
            "prediction/people": draw_people(image, people, self.spec),
            "ground_truth/heatmaps": draw_heatmaps(image, target.cpu().numpy()),
            "prediction/heatmaps": draw_heatmaps(image, predicted.cpu().numpy()),
            "prediction/tags": draw_tags(tags[0][0, 0].cpu().numpy(), image.shape[:2]),
        }


def draw_tags(tags: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One tag map (h, w) as an RGB image of `size` (H, W), from blue (lowest) to red (highest)."""
    span = max(float(np.ptp(tags)), 1e-6)
    gray = (255 * (tags - tags.min()) / span).astype(np.uint8)
    color = cv2.applyColorMap(gray, cv2.COLORMAP_JET)
    return cv2.resize(color[..., ::-1], size[::-1], interpolation=cv2.INTER_NEAREST)


def open_tensorboard(folder: Path, step: int) -> Any:
    """A SummaryWriter that hides events after `step`; None if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("no TensorBoard files are written; to get them: pip install tensorboard")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
