"""Writes the scalars of a run (LOG.SINKS), and to TensorBoard images of inputs and predictions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import yaml
from yacs.config import CfgNode

from lib.analysis.sheet import contact_sheet
from lib.core.images import resize_maps
from lib.core.inference import InferenceSettings, stage_maps
from lib.core.meter import StepResult
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.keypoints import keypoints_of
from lib.training.background import Background, Start, open_sink
from lib.training.scalars import SCALARS, append_scalars, legal_name, truncate_scalars
from lib.utils.journal import leaves
from lib.utils.vis import draw_heatmaps, draw_people, tile

if TYPE_CHECKING:
    from lib.training.events import EventFile  # needs tensorboard

logger = logging.getLogger(__name__)

SERVICES = ("wandb", "mlflow")
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
    """Writes to LOG.SINKS: scalars.jsonl in `output_dir`, TensorBoard files in `log_dir`, services.

    DEBUG.* chooses the images. A run that resumes after `step` removes scalars of later steps.
    A sink that fails ends no training: that is logged once, and it gets nothing more. But
    scalars.jsonl is tried again each time: a full disk may get room.
    """

    def __init__(self, cfg: CfgNode, log_dir: Path, output_dir: Path, step: int = 0) -> None:
        self.settings = InferenceSettings.from_config(cfg)
        self.spec = keypoints_of(cfg, is_train=True)
        self.has_images = cfg.DEBUG.DEBUG
        self.views = [name for name, key in VIEWS.items() if cfg.DEBUG[key]]
        sinks = cfg.LOG.SINKS
        self.events = open_events(log_dir, step) if "tensorboard" in sinks else None
        self.log = output_dir / SCALARS if "jsonl" in sinks else None
        self.log_has_failed = False
        self.services = open_services(cfg, log_dir, output_dir, step)
        self.prints = 0
        if self.log:
            with self._warned_once():
                truncate_scalars(self.log, step)

    def training(self, step: int, values: Mapping[str, float], result: StepResult) -> None:
        """Write `values` as train/NAME; every IMAGES_EVERY calls, some images too."""
        self.scalars(step, {f"train/{name}": value for name, value in values.items()})
        self.prints += 1
        if not (self.events and self.has_images) or self.prints % IMAGES_EVERY != 1:
            return
        count = min(BATCH_IMAGES, len(result.batches[0].images))
        images = [self._draw(i, result) for i in range(count)]
        for name in self.views:
            sheet = tile([views[name] for views in images], columns=BATCH_IMAGES)
            self.events.image(name, sheet, step)
        if arch := result.archs[0]:
            self.events.text("prediction/architecture", arch.summary, step)

    def evaluation(
        self,
        step: int,
        table: Mapping[str, float],
        data: EvaluationSet,
        predictions: Sequence[Prediction],
    ) -> None:
        """Write the AP table as val/NAME, and an image of SHEET_IMAGES images with people first."""
        self.scalars(step, {f"val/{name}": value for name, value in table.items()})
        if self.events and self.has_images and predictions:
            people_first = sorted(data.records, key=lambda record: not len(record.joints))
            sheet = contact_sheet(data._replace(records=people_first), predictions, SHEET_IMAGES)
            self.events.image("val/people", sheet, step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point on each curve."""
        values = {legal_name(name): value for name, value in values.items()}
        if self.events:
            self.events.scalars(values, step)
        if self.log:
            with self._warned_once():
                append_scalars(self.log, step, values)
        for service in self.services:
            service.scalars(step, values)

    def close(self) -> None:
        if self.events:
            self.events.close()
        for service in self.services:
            service.close()

    @contextlib.contextmanager
    def _warned_once(self) -> Iterator[None]:
        """A context in which an error of scalars.jsonl is a warning, the first time."""
        try:
            yield
        except OSError as error:
            if not self.log_has_failed:
                logger.warning("cannot write %s: %s", self.log, error.strerror)
            self.log_has_failed = True

    def _draw(self, i: int, result: StepResult) -> dict[str, np.ndarray]:
        """{tag of VIEWS: (H, W, 3) uint8 RGB} of image `i` of the batch."""
        batch = result.batches[0]
        image, joints = batch.images[i].cpu().numpy(), batch.joints[i].cpu().numpy()
        size = result.outputs[-1].shape[2:]
        resized = [resize_maps(output[i : i + 1], size) for output in result.outputs]
        heatmaps, tags = stage_maps(self.settings, resized)
        grouped = self.settings.group.num_joints  # joints, without an ignored center
        [people], _ = self.settings.parser.parse(
            heatmaps[:, :grouped], torch.stack(tags, dim=4)[:, :grouped]
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


def open_services(cfg: CfgNode, log_dir: Path, output_dir: Path, step: int) -> list[Background]:
    """The sinks of LOG.SINKS that run in a thread, as far as their packages are installed."""
    names = [name for name in cfg.LOG.SINKS if name in SERVICES]
    start = Start(str(output_dir), log_dir, leaves(yaml.safe_load(cfg.dump())), step > 0)
    return [sink for sink in (open_sink(name, start) for name in names) if sink]


def open_events(folder: Path, step: int) -> EventFile | None:
    """A TensorBoard file that hides events after `step`; None if tensorboard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401 (may be of a version that does not fit)

        from lib.training.events import EventFile
    except ImportError:
        logger.warning("no TensorBoard files are written; to get them: pip install tensorboard")
        return None
    return EventFile(folder, step)
