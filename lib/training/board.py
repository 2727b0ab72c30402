"""What is shown of a run: its curves, and in TensorBoard what the network gets and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from tensorboardX import SummaryWriter
from torch import Tensor
from yacs.config import CfgNode

from lib.analysis.sheet import contact_sheet
from lib.core.images import resize_maps
from lib.core.inference import InferenceSettings, stage_maps
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.dataset.samples import Batch
from lib.dataset.target_generators import Targets
from lib.keypoints import keypoints_of
from lib.models.arch import ArchSpec
from lib.training.scalars import SCALARS, append_scalars, cut_scalars
from lib.utils.vis import draw_heatmaps, draw_people, tile

MAX_PICTURES = 4  # of a batch
EVALUATED = 8  # pictures of an evaluation's sheet


class Board:
    """Scalars at every print, pictures every `PICTURES_EVERY` prints (DEBUG.* says which).

    Scalars go to `output_dir`/scalars.jsonl too. Of a run that goes on after `step`, nothing that
    was shown beyond it stays.
    """

    PICTURES_EVERY = 10

    def __init__(self, cfg: CfgNode, log_dir: Path, output_dir: Path, step: int = 0) -> None:
        self.cfg = cfg
        self.spec = keypoints_of(cfg, is_train=True)
        self.settings = InferenceSettings.from_config(cfg)
        self.writer = SummaryWriter(str(log_dir), purge_step=step + 1)
        self.log = output_dir / SCALARS
        self.prints = 0
        cut_scalars(self.log, step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point on each curve."""
        values = {name.replace(" ", "_"): value for name, value in values.items()}
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        append_scalars(self.log, step, values)

    def evaluation(
        self,
        step: int,
        table: Mapping[str, float],
        data: EvaluationSet,
        predictions: Sequence[Prediction],
    ) -> None:
        """AP and so on, and the same few pictures each time: truth above, people found below."""
        self.scalars(step, {f"val/{name}": value for name, value in table.items()})
        if self.cfg.DEBUG.DEBUG and predictions:
            peopled_first = sorted(data.records, key=lambda picture: not len(picture.joints))
            sheet = contact_sheet(data._replace(records=peopled_first), predictions, EVALUATED)
            self.writer.add_image("val/people", sheet, step, dataformats="HWC")

    def pictures(
        self,
        step: int,
        batch: Batch,
        outputs: list[Tensor],
        targets: Targets,
        arch: ArchSpec | None = None,
    ) -> None:
        """The first pictures of `batch` beside truth and the answer of `arch`, now and then."""
        self.prints += 1
        if not self.cfg.DEBUG.DEBUG or self.prints % self.PICTURES_EVERY != 1:
            return
        shown = range(min(MAX_PICTURES, len(batch.images)))
        views = [self._views(i, batch, outputs, targets) for i in shown]
        for name in views[0]:
            sheet = tile([view[name] for view in views], columns=MAX_PICTURES)
            self.writer.add_image(name, sheet, step, dataformats="HWC")
        if arch is not None:
            self.writer.add_text("answer/architecture", arch.summary, step)

    def close(self) -> None:
        self.writer.close()

    def _views(
        self, i: int, batch: Batch, outputs: list[Tensor], targets: Targets
    ) -> dict[str, np.ndarray]:
        """What DEBUG.* asks to see of picture `i`."""
        debug, joints = self.cfg.DEBUG, self.cfg.MODEL.NUM_JOINTS
        image = batch.images[i].cpu().numpy()
        size = outputs[-1].shape[2:]
        resized = [resize_maps(output[i : i + 1], size) for output in outputs]
        heatmaps, tags = stage_maps(self.settings, resized)
        views = {}
        if debug.SAVE_BATCH_IMAGES_GT:
            views["truth/people"] = draw_people(image, batch.joints[i].cpu().numpy(), self.spec)
        if debug.SAVE_BATCH_IMAGES_PRED:
            people = self._people(heatmaps, tags, image.shape[0] / size[0])
            views["answer/people"] = draw_people(image, people, self.spec)
        if debug.SAVE_HEATMAPS_GT:
            views["truth/heatmaps"] = draw_heatmaps(image, targets.heatmaps[-1][i].cpu().numpy())
        if debug.SAVE_HEATMAPS_PRED:
            views["answer/heatmaps"] = draw_heatmaps(image, heatmaps[0, :joints].cpu().numpy())
        if debug.SAVE_TAGMAPS_PRED:
            views["answer/tags"] = _draw_tags(tags[0][0, 0].cpu().numpy(), image.shape[:2])
        return views

    def _people(self, heatmaps: Tensor, tags: list[Tensor], ratio: float) -> np.ndarray:
        """The people found, (N, K, 4) in pixels of the crop."""
        body = self.settings.group.num_joints
        [people], _ = self.settings.parser.parse(heatmaps[:, :body], tags[0][:, :body, ..., None])
        people[..., :2] *= ratio
        return people


def _draw_tags(tags: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One tag map (h, w), its least value blue and its largest red."""
    span = max(float(np.ptp(tags)), 1e-6)
    color = cv2.applyColorMap(np.uint8(255 * (tags - tags.min()) / span), cv2.COLORMAP_JET)
    return cv2.resize(color[..., ::-1], size[::-1], interpolation=cv2.INTER_NEAREST)
