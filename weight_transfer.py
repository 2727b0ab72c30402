"""Extract sub-networks from a trained supernet or from any LitePose, recalibrate and save them.

    python weight_transfer.py --cfg experiments/crowd_pose/mobilenet/supermobile.yaml \\
        --superconfig mobile_configs/search-XS.json TEST.MODEL_FILE supernet/checkpoint.pth.tar
    python weight_transfer.py --cfg ... --all mobile_configs TEST.MODEL_FILE ...   # every JSON
    python weight_transfer.py --cfg experiments/crowd_pose/mobilenet/finetune.yaml \\
        --superconfig mobile_configs/search-XS.json TEST.MODEL_FILE search-M.pth.tar

The last one shrinks a network that was trained alone: its channels are sorted by importance first
(SUPERNET.SORT_CHANNELS, SUPERNET.IMPORTANCE), and the result needs fine-tuning. SUPERNET.REFIT True
refits the layers of the result.

The outputs of each sub-network are compared with the supernet's (the difference is 0). Then its
BatchNorm is recalibrated, or its layers are refitted, on training images at its resolution. It is
saved with its architecture and origin as OUTPUT_DIR/<data set>/<model>/<yaml name>/NAME.pth.tar,
which MODEL.PRETRAINED and TEST.MODEL_FILE accept.
"""

from __future__ import annotations

import lib  # isort: skip  # noqa: F401  (before torch)

import json
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from yacs.config import CfgNode

from lib.analysis.report import make_folders
from lib.config import load_config
from lib.core.calibrate import Calibration
from lib.core.evaluate import average_precision
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.dataset.build import (
    EvaluationSet,
    build_evaluation_set,
    build_training_set,
    make_dataloader,
)
from lib.models import place
from lib.models.arch import ArchSpec
from lib.models.load import NetworkFile, as_trained, read_network
from lib.models.pose_mobilenet import LitePose
from lib.models.pose_supermobilenet import SuperLitePose
from lib.models.refit import refit
from lib.models.subnet import build_supernet, extract_subnet
from lib.training.sorting import sorting_images
from lib.utils import cli
from lib.utils.checkpoint import save_checkpoint
from lib.utils.complexity import count_macs, count_params
from lib.utils.dist import choose_device
from lib.utils.files import check_outputs, write_file
from lib.utils.logger import create_logger
from lib.utils.reading import hash_of
from lib.utils.shipped import find_weights
from lib.utils.tables import markdown

logger = logging.getLogger("lib.transfer")

COLUMNS = ("Arch", "max difference", "AP uncalibrated", "AP {adjusted}", "parameters", "GMACs")


class Data(NamedTuple):
    """The data to recalibrate and to score on; None if the split is missing."""

    calibration: Calibration | None  # or refitting
    evaluation: EvaluationSet | None


class ExtractedSubnet(NamedTuple):
    """One row of the printed table."""

    name: str
    difference: float  # largest difference to the supernet's outputs, before what follows
    ap_before: float | None  # AP before calibration or refitting; None without data
    ap_after: float | None  # AP after it
    params: int
    gmacs: float

    @property
    def cells(self) -> tuple[str, ...]:
        aps = ("-" if ap is None else f"{ap:.3f}" for ap in (self.ap_before, self.ap_after))
        return (self.name, f"{self.difference:g}", *aps, f"{self.params:,}", f"{self.gmacs:.3f}")


def parse_args() -> Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--all", metavar="FOLDER", help="extract every *.json of a folder")
    parser.add_argument("--json", metavar="PATH", help="write the rows of the table")
    parser.add_argument("--no-ap", action="store_true", help="recalibrate, but do not evaluate")
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse_args()
    paths = architecture_paths(args)
    cfg = load_config(args.cfg, args.opts)
    output_dir, _ = create_logger(cfg, args.cfg, "transfer")
    make_folders(args.json)
    source = cfg.TEST.MODEL_FILE
    if not source:
        raise ValueError("TEST.MODEL_FILE is empty; set it to the supernet's checkpoint")
    network = read_network(cfg.TEST.MODEL_FILE, cfg=args.cfg, opts=args.opts)
    opts = [*args.opts, *as_trained(network)]
    cfg = load_config(args.cfg, opts)
    supernet = read_supernet(args, cfg, network)
    outputs = [target_of(path, output_dir) for path in paths]
    check_outputs([*outputs, args.json], [source, args.cfg, *paths])
    origin = {"supernet": str(source), "sha256": hash_of(find_weights(source))}
    data = read_data(cfg, with_ap=not args.no_ap)
    subnets = []
    for path in paths:
        arch = ArchSpec.from_json(path)
        warn_of_depth(trained_depths(network), arch, supernet.arch)
        subnet_cfg = load_config(args.cfg, opts, img_size=arch.img_size)
        target = target_of(path, output_dir)
        subnets.append(transfer(subnet_cfg, supernet, arch, data, origin, target))
    columns = [name.format(adjusted=adjusted(cfg)) for name in COLUMNS]
    print(markdown(columns, [subnet.cells for subnet in subnets]))
    if args.json:
        rows = [subnet._asdict() for subnet in subnets]
        write_file(args.json, json.dumps(rows, indent=2) + "\n")


def read_supernet(args: Namespace, cfg: CfgNode, network: NetworkFile) -> SuperLitePose:
    """The supernet of `network`; of a LitePose, one with sorted channels."""
    device = choose_device(cfg, args.gpu)
    model = build_supernet(network, device, partial(sorting_images, cfg, device))
    # Contiguous like the extracted sub-networks: outputs are equal only with equal memory formats.
    supernet = place(model, device, channels_last=False)
    assert isinstance(supernet, SuperLitePose)
    return supernet


def trained_depths(network: NetworkFile) -> Sequence[float]:
    """SUPERNET.DEPTHS that the network was trained with, as far as its file or the config knows."""
    node = network.recorded.get("SUPERNET")
    depths = node.get("DEPTHS") if isinstance(node, Mapping) else None
    is_list = isinstance(depths, list) and all(isinstance(depth, (int, float)) for depth in depths)
    return depths if depths and is_list else network.cfg.SUPERNET.DEPTHS


def warn_of_depth(trained: Sequence[float], arch: ArchSpec, largest: ArchSpec) -> None:
    """A warning if `arch` skips blocks, but the supernet was trained with all of them."""
    depths, full = ([len(stage.blocks) for stage in one.stages] for one in (arch, largest))
    if depths != full and min(trained) == 1:
        logger.warning(
            "stages of %s blocks; trained were all %s (SUPERNET.DEPTHS), so it needs fine-tuning",
            depths,
            full,
        )


def architecture_paths(args: Namespace) -> list[Path]:
    """The architecture files to extract."""
    if bool(args.superconfig) == bool(args.all):
        raise ValueError("name one architecture (--superconfig) or a folder of them (--all)")
    if args.superconfig:
        return [Path(args.superconfig)]
    paths = sorted(Path(args.all).glob("*.json"))
    if not paths:
        raise ValueError(f"--all {args.all} holds no *.json")
    return paths


def target_of(path: Path, output_dir: Path) -> Path:
    """The file of the sub-network with the architecture file `path`."""
    return output_dir / f"{path.stem}.pth.tar"


def read_data(cfg: CfgNode, with_ap: bool) -> Data:
    """The splits of `cfg`, read once for all sub-networks; logs a warning if one is missing."""
    calibration = evaluation = None
    try:
        supernet = cfg.SUPERNET
        images = supernet.SORTING_IMAGES if supernet.REFIT else supernet.CALIBRATION_IMAGES
        calibration = Calibration(build_training_set(cfg), partial(make_dataloader, cfg), images)
    except ValueError as error:
        logger.warning("not %s: %s", adjusted(cfg), error)
    try:
        evaluation = build_evaluation_set(cfg) if with_ap else None
    except ValueError as error:
        logger.warning("not evaluated: %s", error)
    return Data(calibration, evaluation)


def transfer(
    cfg: CfgNode, supernet: SuperLitePose, arch: ArchSpec, data: Data, origin: dict, path: Path
) -> ExtractedSubnet:
    """Extract `arch`, compare it, recalibrate it if there are images, and save it to `path`."""
    subnet = extract_subnet(supernet, arch)
    difference = largest_difference(supernet, subnet, arch)
    place(subnet, next(supernet.parameters()).device, channels_last=True)
    settings, loading = InferenceSettings.from_config(cfg), LoaderSettings.from_config(cfg)

    def score() -> float | None:
        if data.evaluation is None:
            return None
        return average_precision(settings, subnet, data.evaluation, loading)

    before = score()
    images = adjust(subnet, supernet, data.calibration, cfg.SUPERNET.REFIT)
    after = score() if images else None
    save_checkpoint(
        path,
        state_dict=subnet.state_dict(),
        arch=arch.to_dict(),
        provenance=origin
        | {
            "calibration_images": images,
            "refitted": cfg.SUPERNET.REFIT,
            "config": cfg.dump(),
        },
    )
    logger.info("%s, %s on %d images: %s", path.name, adjusted(cfg), images, path)
    return ExtractedSubnet(
        name=path.name.removesuffix(".pth.tar"),
        difference=difference,
        ap_before=before,
        ap_after=after,
        params=count_params(subnet),
        gmacs=count_macs(subnet, arch.img_size)["true"] / 1e9,
    )


def adjusted(cfg: CfgNode) -> str:
    """What happens to a sub-network, in a word."""
    return "refitted" if cfg.SUPERNET.REFIT else "calibrated"


def adjust(
    subnet: LitePose, supernet: SuperLitePose, calibration: Calibration | None, refits: bool
) -> int:
    """Recalibrate or refit `subnet` at its resolution. Return the number of images used."""
    if calibration is None:
        return 0
    size = subnet.arch.img_size
    if not refits:
        return calibration(subnet, size)
    return refit(subnet, supernet, calibration.batches(size, next(subnet.parameters()).device))


@torch.no_grad()
def largest_difference(supernet: SuperLitePose, subnet: LitePose, arch: ArchSpec) -> float:
    """Largest absolute difference of both outputs, for a noise image of the architecture's size."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, arch.img_size, arch.img_size, generator=generator)
    noise = noise.to(next(supernet.parameters()).device)
    pairs = zip(supernet(noise, arch), subnet(noise), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


if __name__ == "__main__":
    cli.run(main)
