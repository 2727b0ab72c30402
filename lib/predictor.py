"""Finds people in images: the Python interface.

from lib.predictor import Predictor

predictor = Predictor.load("litepose-xs-crowdpose-v2")  # part of the project; or a file of weights
people = predictor("street.jpg")    # or an array (H, W, 3) uint8 RGB, or a list of images
people.keypoints                    # (N, K, 3): x, y in pixels of the image, score of the joint
predictor.keypoints.joints          # the names of the K joints
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.group import Grouped, require_finite
from lib.core.inference import InferenceSettings, Input, find_people, network_maps, prepare
from lib.keypoints import KeypointSpec
from lib.models.arch import ArchSpec
from lib.models.load import NetworkFile, read_network
from lib.utils.device import resolve_device, synchronize
from lib.utils.images import check_pixels, read_image

EXPORTED = (".onnx", ".xml")  # endings of exported networks
PYTORCH = "pytorch"  # the runtime that needs no conversion
Image = str | os.PathLike[str] | np.ndarray  # a path, or (H, W, 3) uint8 RGB


class People(NamedTuple):
    """N people in one image; N may be 0."""

    keypoints: np.ndarray  # (N, K, 3): x, y in pixels of the image, score; 0 for a missing joint
    scores: np.ndarray  # (N,), of the people
    tags: np.ndarray  # (N, K, L), associative embedding; L: AE_TAG_DIMS, twice with flip test
    is_full: bool = False  # a joint was found DATASET.MAX_NUM_PEOPLE times: there may be more


class Runtime(NamedTuple):
    """What computes a network."""

    name: str | None = None  # as in `Predictor.load`
    callers: int = 1  # threads that call `compute` at the same time, each with its share of the CPU


class Network(Protocol):
    """A network in three steps, image -> people, each of which may run in another thread."""

    spec: KeypointSpec
    arch: ArchSpec | None  # None: not a LitePose
    input_size: int
    codec: str  # MODEL.CODEC
    callers: int  # threads that may call `compute` at the same time without loss

    def prepare(self, image: np.ndarray, /) -> Any:
        """(H, W, 3) uint8 RGB -> the input of the network."""
        ...

    def compute(self, prepared: Any, /) -> Any:
        """Input -> the network's maps."""
        ...

    def group(self, maps: Any, /, min_score: float) -> Grouped:
        """Maps -> people in pixels of the image, without those below `min_score`."""
        ...


class TorchNetwork:
    """A network in PyTorch; the steps are those of `lib.core.inference.predict`."""

    def __init__(self, file: NetworkFile, device: torch.device, runtime: Runtime) -> None:
        self.spec = file.spec
        self.arch = file.arch
        self.input_size = file.input_size
        self.codec = file.codec
        self.settings = InferenceSettings.from_config(file.cfg)
        self.model = build_network(file, device, runtime)
        self.callers = 1 if runtime.name in (None, PYTORCH) else runtime.callers
        self.device = device

    def prepare(self, image: np.ndarray) -> Input:
        return prepare(self.settings, image)

    def compute(self, prepared: Input) -> tuple[Tensor, Tensor, Input]:
        heatmaps, tags = network_maps(self.settings, self.model, [prepared], project=False)
        synchronize(self.device)  # so that `group` does not wait for it
        return heatmaps, tags, prepared

    def group(self, maps: tuple[Tensor, Tensor, Input], min_score: float = 0.0) -> Grouped:
        return find_people(self.settings, *maps, min_score=min_score)


class Predictor:
    """Finds people: `predictor(image)`, or step by step `group(compute(prepare(image)))`."""

    def __init__(self, network: Network) -> None:
        self.network = network

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        cfg: str | Path | None = None,
        superconfig: str | Path | None = None,
        opts: Sequence[str] = (),
        input_size: int | None = None,
        joints: str | Path | None = None,
        device: str | int | torch.device | None = None,
        runtime: str | Runtime | None = None,
    ) -> Predictor:
        """The predictor of a file of weights or of an exported network.

        path: a checkpoint, an extracted sub-network, a bare state dict, *.safetensors, the name of
        weights that come with the project, "litepose-xs-crowdpose-v2"; or *.onnx or *.xml of
        `tools.export`.
        cfg, superconfig, opts, input_size, joints: as in `lib.models.load.read_network`; a bare
        state dict may need input_size or joints, and exported networks accept none of them.
        device: "cuda:1", "cpu", or the number of a GPU; default: a GPU if there is one. Apple's
        "mps" and Intel's "xpu" are untried.
        runtime: "pytorch", "onnxruntime", "openvino" or "openvino-bf16" (half the bits, half the
        time on CPUs that have bfloat16); all but the first run on the CPU. Default: PyTorch for
        weights, ONNX Runtime for *.onnx, OpenVINO for *.xml. `Runtime("openvino", callers=2)`: two
        threads call `compute` at the same time (PyTorch ignores it).

        ValueError, in one line, if the file cannot be read or the arguments do not fit it.
        """
        path = Path(path)
        runtime = runtime if isinstance(runtime, Runtime) else Runtime(runtime)
        if path.suffix in EXPORTED:
            if cfg or superconfig or opts or input_size or joints:
                raise ValueError(f"{path} was exported with its settings; they cannot be changed")
            from lib.deploy.exported import open_exported

            threads = torch.get_num_threads()
            return cls(open_exported(path, runtime.name, threads, runtime.callers))
        file = read_network(
            path,
            cfg=cfg,
            superconfig=superconfig,
            opts=opts,
            input_size=input_size,
            joints=joints,
        ).expect_subnet()
        if runtime.name not in (None, PYTORCH) and device is None:
            device = "cpu"
        return cls(TorchNetwork(file, resolve_device(device, file.cfg.GPUS[0]), runtime))

    @property
    def keypoints(self) -> KeypointSpec:
        """Names, limbs and flips of the K joints."""
        return self.network.spec

    @property
    def arch(self) -> ArchSpec | None:
        """Widths and kernels of a LitePose; None for other networks."""
        return self.network.arch

    @property
    def input_size(self) -> int:
        """Pixels of the short (or long, TEST.SCALE_TYPE) side of the network's input."""
        return self.network.input_size

    @property
    def codec(self) -> str:
        """MODEL.CODEC: how heatmaps are decoded."""
        return self.network.codec

    @property
    def callers(self) -> int:
        """Threads that may call `compute` at the same time without loss (`Runtime`)."""
        return self.network.callers

    @overload
    def __call__(self, image: Image) -> People: ...

    @overload
    def __call__(self, image: Sequence[Image]) -> list[People]: ...

    def __call__(self, image: Image | Sequence[Image]) -> People | list[People]:
        """The people in an image; for a list of images, a list of People."""
        if isinstance(image, (list, tuple)):
            return [self(one) for one in image]
        if isinstance(image, (str, os.PathLike)):
            image = read_image(image)
        return self.group(self.compute(self.prepare(image)))

    def prepare(self, image: Any) -> Any:
        """(H, W, 3) uint8 RGB -> the input of the network; ValueError for another array."""
        if not isinstance(image, np.ndarray):
            raise ValueError(f"an image is a path or an array, not a {type(image).__name__}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"an image is (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")
        check_pixels(image.shape[1], image.shape[0])
        return self.network.prepare(image)

    def compute(self, prepared: Any) -> Any:
        """The network's maps of what `prepare` returned."""
        return self.network.compute(prepared)

    def group(self, maps: Any, min_score: float = 0.0) -> People:
        """The people in what `compute` returned; ValueError if it is not finite.

        People below `min_score` are left out, which saves the search for their missing joints.
        """
        people, scores, is_full = self.network.group(maps, min_score)
        require_finite(people[..., :3], np.asarray(scores))
        return People(people[..., :3], np.array(scores), people[..., 3:], is_full)


def build_network(file: NetworkFile, device: torch.device, runtime: Runtime) -> nn.Module:
    """The network of a file on `device`, computed by `runtime`."""
    if runtime.name in (None, PYTORCH):
        return file.build(device)
    if device.type != "cpu":
        raise ValueError(f"the runtime {runtime.name} computes on the CPU, not on {device}")
    from lib.deploy.compiled import CompiledNetwork  # loads onnx

    network = file.build(device)
    return CompiledNetwork.convert(network, str(runtime.name), callers=runtime.callers)
