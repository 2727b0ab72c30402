"""An exported network (tools/export), run by ONNX Runtime or OpenVINO.

The graph ends with candidates, the strongest peaks of each joint, or with the network's maps. Both
go on with the functions of the evaluation, so that the people are those of PyTorch.
tools/device_runner.py does the same with candidates on a device, in NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from lib.codec import CODECS
from lib.core.group import (
    Grouped,
    GroupParams,
    group_by_tag,
    is_full,
    require_finite,
    with_scores,
)
from lib.core.inference import MAX_SIDE, InferenceSettings, Input, find_people, network_maps
from lib.core.maps import HostMaps
from lib.deploy.compiled import CompiledNetwork
from lib.deploy.session import Run, open_session
from lib.keypoints import KEYPOINTS, KeypointSpec
from lib.models.arch import ArchSpec
from lib.utils.reading import read_json
from lib.utils.transforms import (
    PIXEL_STD,
    get_final_preds,
    get_multi_scale_size,
    of_pixels,
    warp_matrix,
)


class Prepared(NamedTuple):
    """The network's input, and how it lies in the image."""

    images: np.ndarray  # (1, H, W, 3) uint8 RGB
    center: np.ndarray  # of the input, in pixels of the image
    scale: np.ndarray  # width and height of the input in the image, in units of 200 pixels


class Candidates(NamedTuple):
    """What the graph returns for one image; M candidates of each of K joints."""

    outputs: list[np.ndarray]  # positions (K, M, 2), values (K, M), tags (K, M, L), ...
    prepared: Prepared


class ExportedNetwork:
    """What a card says, and the input of the network; its classes compute and group.

    An image becomes people in the three steps of `lib.predictor.Predictor`, on the CPU.
    """

    def __init__(self, run: Run, card: Mapping[str, Any], spec: KeypointSpec) -> None:
        self.run = run
        self.spec = spec
        arch = card.get("provenance", {}).get("arch")
        self.arch = ArchSpec.from_dict(arch) if arch else None
        self.input_size: int = card["input"]["side"]
        self.fixed_size: list[int] | None = card["input"]["size"]  # width, height; None: any
        self.scale_type: str = card["input"]["scale_type"]
        self.codec: str = card["codec"]
        self.pixel_center: float = card["pixel_center"]
        rules = dict(card["grouping"])
        self.refine: bool = rules.pop("refine")
        self.group_params = GroupParams(**rules)
        self.callers = 1

    def prepare(self, image: np.ndarray) -> Prepared:
        """`image` (H, W, 3) uint8 RGB as the network's input.

        ValueError when an elongated image would become an input longer than MAX_SIDE.
        """
        size, center, scale = get_multi_scale_size(
            image, self.input_size, 1.0, 1.0, self.scale_type
        )
        if self.fixed_size:  # the whole image fits into it, black around
            size = tuple(self.fixed_size)
            sides = image.shape[1], image.shape[0]
            ratio = min(size[0] / sides[0], size[1] / sides[1])
            scale = np.array(size) / ratio / PIXEL_STD
        if max(size) > MAX_SIDE:
            raise ValueError(
                f"{image.shape[1]} x {image.shape[0]} pixels become an input of "
                f"{size[0]} x {size[1]}; at most {MAX_SIDE} are possible"
            )
        matrix = of_pixels(warp_matrix(center, scale, size), self.pixel_center)
        return Prepared(cv2.warpAffine(image, matrix, size)[None], center, scale)


class CandidateNetwork(ExportedNetwork):
    """A network whose graph returns candidates."""

    def compute(self, prepared: Prepared) -> Candidates:
        """Run the graph."""
        return Candidates([output[0] for output in self.run(prepared.images)], prepared)

    def group(self, candidates: Candidates, min_score: float = 0.0) -> Grouped:
        """People in pixels of the image, without those below `min_score`."""
        positions, values, tags = candidates.outputs[:3]
        rows = np.concatenate([positions, values[..., None], tags], axis=2)
        above = values > self.group_params.detection_threshold
        strong = [joint[mask] for joint, mask in zip(rows, above, strict=True)]
        # The last but one output: the values of all pixels, or again those of the candidates.
        require_finite(values, candidates.outputs[-2], *strong)
        people, scores = with_scores(group_by_tag(strong, self.group_params), min_score)
        height, width = candidates.prepared.images.shape[1:3]
        if self.refine:
            # The last three outputs are those of all pixels, or the candidates themselves.
            _fill_missing(people, *candidates.outputs[-3:], aspect=(height, width))
        _, center, scale = candidates.prepared
        preds = get_final_preds([people], center, scale, (width, height), self.pixel_center)
        people = np.array(preds, np.float32).reshape(people.shape)
        return Grouped(people, scores, is_full(strong, self.group_params))


class MapNetwork(ExportedNetwork):
    """A network whose graph returns its maps (`--graph network`): no slow peaks in the graph."""

    def __init__(self, run: Run, card: Mapping[str, Any], spec: KeypointSpec) -> None:
        super().__init__(run, card, spec)
        maps = dict(card["maps"])
        is_ignored = maps.pop("ignored_center")
        rules = {key: maps.pop(key) for key in ("nms_kernel", "tag_per_joint")}
        self.settings = InferenceSettings(
            spec=spec,
            group=replace(self.group_params, codec=CODECS[self.codec], **rules),
            input_size=self.input_size,
            scale_type=self.scale_type,
            flip_test=card["flip_test"],
            refine=self.refine,
            with_center=is_ignored,
            ignore_center=is_ignored,
            **maps,
        )
        self.network = CompiledNetwork(run, one_by_one=bool(self.fixed_size))

    def compute(self, prepared: Prepared) -> tuple[Tensor, Tensor, Input]:
        """Run the graph and the flip test, if the card has it."""
        images, center, scale = prepared
        size = images.shape[2], images.shape[1]
        one = Input((torch.from_numpy(images[0]),), size, center, scale)
        return *network_maps(self.settings, self.network, [one], project=False), one

    def group(self, maps: tuple[Tensor, Tensor, Input], min_score: float = 0.0) -> Grouped:
        """People in pixels of the image, without those below `min_score`."""
        return find_people(self.settings, *maps, min_score=min_score)


def open_exported(
    path: str | Path, runtime: str | None = None, threads: int = 0, callers: int = 1
) -> CandidateNetwork | MapNetwork:
    """The model at `path` with the card.json next to it, on that many threads (0: all cores).

    path: *.onnx, or *.xml of OpenVINO. runtime: one of `lib.deploy.session.RUNTIMES`; None: ONNX
    Runtime, and OpenVINO for its own files. callers: as in `open_session`. ValueError when one of
    the files cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no exported network {path}")
    card = read_json(path.with_name("card.json"), "card")
    try:
        kind = CandidateNetwork if "values" in card["outputs"] else MapNetwork
        spec = _spec_of_card(card, f"the card next to {path}")
        runtime = runtime or ("openvino" if path.suffix == ".xml" else "onnxruntime")
        network = kind(open_session(path, runtime, threads, callers), card, spec)
    except (KeyError, TypeError, IndexError):
        raise ValueError(f"the card next to {path} is not of an exported network") from None
    network.callers = callers
    return network


def _spec_of_card(card: Mapping[str, Any], source: str) -> KeypointSpec:
    """The keypoints of an exported network; errors name the card as `source`."""
    names = card["joints"]
    for known in KEYPOINTS.values():
        if list(known.joints) == names:
            return known
    tree = {
        "name": card["data_set"],
        "joints": names,
        "flips": [[names[a], names[b]] for a, b in enumerate(card["flip_index"]) if a < b],
        "sigmas": card["sigmas"],
        "limbs": [[names[a], names[b]] for a, b in card["limbs"]],
    }
    return KeypointSpec.from_dict(tree, source)


def _fill_missing(
    people: np.ndarray,
    positions: np.ndarray,
    values: np.ndarray,
    tags: np.ndarray,
    aspect: tuple[int, int],
) -> None:
    """Add the joints that `people` (N, K, 3 + L) lack, in place, as `lib.core.group` does.

    positions (K, M, 2), values (K, M), tags (K, M, L) are the choices for each joint: all pixels of
    a map with the sides' ratio `aspect`, row by row, or the candidates.
    """
    has = people[..., 2] > 0  # (N, K)
    person, joint = np.nonzero(~has)
    if len(person) == 0:
        return
    # HostMaps searches maps (K, h, w) by blocks. Any w that divides M gives the same answer; that
    # of the map is the fastest, as neighbors have similar tags.
    height, width = aspect
    width = isqrt(values.shape[1] * width // height)
    width = width if values.shape[1] % width == 0 else values.shape[1]
    shape = len(values), values.shape[1] // width, width
    maps = HostMaps(values.reshape(shape), tags.reshape(*shape, -1))
    mean = people[..., 3:].sum(axis=1) / has.sum(axis=1, keepdims=True, dtype=np.float32)  # (N, L)
    best = maps.best_pixels(joint, mean[person])
    chosen = joint, best.y * width + best.x
    taken = values[chosen] > 0
    people[person[taken], joint[taken], :2] = positions[chosen][taken]
    people[person[taken], joint[taken], 2] = values[chosen][taken]
