"""What the parts share: networks, sizes, timing, and rows with an error in place of figures."""

from __future__ import annotations

import contextlib
import gc
import itertools
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from yacs.config import CfgNode

from lib.config import as_opts, load_config
from lib.dataset.synthetic.layout import make_dataset
from lib.dataset.synthetic.scene import SceneParams
from lib.keypoints import COCO
from lib.models.arch import ArchSpec
from lib.search.latency import now

ROOT = Path(__file__).resolve().parents[3]
NO_GPU = "no CUDA device"
FP16 = {"FP16.ENABLED": True, "FP16.DYNAMIC_LOSS_SCALE": True}

Row = dict[str, Any]  # figures by column


class Timeout(BaseException):
    """The time of a part is over; no Exception, so that no library catches it."""


class DeviceLost(Exception):
    """The GPU answers no more in this process, as after an address out of range in a kernel."""


class Network(NamedTuple):
    """A network that is measured."""

    cfg: str
    arch: str | None  # None: the complete supernet
    size: int  # pixels
    batch: int


SMALL_ARCH = "experiments/synthetic/narrow.json"
NETWORKS = {
    "search-XS": Network(
        "experiments/crowd_pose/mobilenet/mobile.yaml", "mobile_configs/search-XS.json", 256, 64
    ),
    "search-S": Network(
        "experiments/crowd_pose/mobilenet/mobile.yaml", "mobile_configs/search-S.json", 448, 32
    ),
    "supernet": Network("experiments/crowd_pose/mobilenet/supermobile.yaml", None, 512, 32),
}


@dataclass
class Context:
    """What every part is given."""

    small: bool  # reduced sizes, for a CPU
    seconds: float  # of one timing
    folder: Path  # for data sets and checkpoints
    parts: dict[str, Any] = field(default_factory=dict)  # the report so far

    def network(self, name: str) -> Network:
        """A network of NETWORKS; on a CPU at a small size, with SMALL_ARCH in place of its own."""
        network = NETWORKS[name]
        if not self.small:
            return network
        return network._replace(arch=network.arch and SMALL_ARCH, size=64, batch=2)


def read_network(network: Network, opts: Mapping[str, Any]) -> tuple[CfgNode, ArchSpec | None]:
    """Config and architecture at the size of `network`."""
    size = network.size
    pairs: dict[str, Any] = {"WORKERS": 0, "VERBOSE": False, **opts}
    if network.arch is None:
        pairs = {
            "DATASET.INPUT_SIZE": size,
            "DATASET.OUTPUT_SIZE": [size // 4, size // 2],
            "SUPERNET.RESOLUTIONS": [size],
            **pairs,
        }
        return load_config(ROOT / network.cfg, as_opts(pairs)), None
    arch = replace(ArchSpec.from_json(ROOT / network.arch), img_size=size)
    return load_config(ROOT / network.cfg, as_opts(pairs), img_size=size), arch


def rendered(context: Context) -> Path:
    """The folder of a rendered data set in the layout of COCO; rendered by the first call."""
    root = context.folder / "data"
    width, height, count = (128, 96, 8) if context.small else (640, 480, 64)
    params = SceneParams(width=width, height=height, min_people=1, max_people=4)
    make_dataset(root, COCO, {"train": count, "val": count // 4}, params)
    return root


def attempt(labels: Row, measure: Callable[[], Row], device: torch.device) -> Row:
    """A row of `labels` and what `measure` returns, or its error; frees the GPU's memory.

    DeviceLost if the GPU answers no more.
    """
    try:
        row = {**labels, **measure()}
    except Exception as error:
        row = {**labels, "error": line_of(error)}
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise DeviceLost(row.get("error", line_of(error))) from None
    return row


def line_of(error: BaseException) -> str:
    """Type and first line of an error, and the last line of this repository that led to it."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0][:300]}"
    places = [
        f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT)
    ]
    return f"{text} ({places[-1]})" if places else text


def seconds_of(
    call: Callable[[], object], device: torch.device, seconds: float, warm_up: int = 3
) -> float:
    """Seconds of a call: the mean over about `seconds`, after a warm-up; slow calls run less often.

    The calls of the mean follow each other without waiting for the device.
    """
    begin = now(device)
    for _ in range(warm_up):
        call()
        if now(device) - begin > 4 * seconds + 1:
            break
    begin = now(device)
    call()
    once = now(device) - begin
    if once > 2 * seconds:
        return once
    count = max(3, min(1000, int(seconds / max(once, 1e-6))))
    begin = now(device)
    for _ in range(count):
        call()
    return (now(device) - begin) / count


def numbered(step: Callable[[int], object]) -> Callable[[], object]:
    """`step` called with 0, 1, 2, ..."""
    numbers = itertools.count()
    return lambda: step(next(numbers))


@contextlib.contextmanager
def backends(**flags: bool) -> Iterator[None]:
    """A context with these flags of cuDNN; without any, one that restores what is changed in it."""
    names = [*flags] or ["benchmark", "deterministic", "enabled"]
    before = {name: getattr(torch.backends.cudnn, name) for name in names}
    try:
        for name, value in flags.items():
            setattr(torch.backends.cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(torch.backends.cudnn, name, value)


def peak_mb(device: torch.device) -> Any:
    """Peak memory of tensors on the GPU since `forget_peak`."""
    if device.type != "cuda":
        return NO_GPU
    return torch.cuda.max_memory_allocated() / 1e6


def forget_peak(device: torch.device) -> None:
    """Start to measure the peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
