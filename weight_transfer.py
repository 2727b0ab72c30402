"""Cut sub-networks out of a trained supernet, so that they work at once.

    python weight_transfer.py --cfg experiments/crowd_pose/mobilenet/supermobile.yaml \\
        --superconfig mobile_configs/search-XS.json TEST.MODEL_FILE supernet/checkpoint.pth.tar
    python weight_transfer.py --cfg ... --all mobile_configs TEST.MODEL_FILE ...   # every JSON

Each cut is compared with the supernet (the difference is 0), its BatchNorm statistics are
taken anew over training pictures at its own resolution, and it is saved, with its architecture and
where it came from, as OUTPUT_DIR/<data set>/<model>/<yaml name>/<architecture>.pth.tar: the
file that MODEL.PRETRAINED and TEST.MODEL_FILE read.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import torch
from yacs.config import CfgNode

from lib.config import load_config
from lib.core.calibrate import recalibrate
from lib.core.evaluate import average_precision
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.dataset.build import EvaluationSet, build_dataset, build_evaluation_set
from lib.dataset.pose_dataset import PoseDataset
from lib.models.arch import ArchSpec
from lib.models.pose_mobilenet import LitePose
from lib.models.pose_supermobilenet import SuperLitePose, load_supernet
from lib.models.subnet import extract_subnet
from lib.search.accuracy import calibration_batches
from lib.utils import cli
from lib.utils.checkpoint import hash_of, save_checkpoint
from lib.utils.complexity import count_macs, count_params
from lib.utils.dist import choose_device
from lib.utils.logger import create_logger

logger = logging.getLogger("lib.transfer")


class Cut(NamedTuple):
    """One row of the table."""

    name: str
    difference: float  # largest, of any output to the supernet's, before calibration
    ap_before: float | None  # None without data
    ap_after: float | None
    params: int
    gmacs: float


def parse_args() -> Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--all", metavar="FOLDER", help="cut every *.json of a folder")
    parser.add_argument("--no-ap", action="store_true", help="calibrate, but do not evaluate")
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse_args()
    paths = architecture_paths(args)
    cfg = load_config(args.cfg, args.opts)
    output_dir, _ = create_logger(cfg, args.cfg, "transfer")
    if not cfg.TEST.MODEL_FILE:
        raise ValueError("name the supernet's checkpoint: TEST.MODEL_FILE")
    device = choose_device(cfg, args.gpu)
    supernet = load_supernet(cfg, cfg.TEST.MODEL_FILE).to(device)
    origin = {"supernet": str(cfg.TEST.MODEL_FILE), "sha256": hash_of(cfg.TEST.MODEL_FILE)}
    pictures = read_records(cfg, not args.no_ap)
    cuts = []
    for path in paths:
        arch = ArchSpec.from_json(path)
        own_cfg = load_config(args.cfg, args.opts, img_size=arch.img_size)
        target = output_dir / f"{path.stem}.pth.tar"
        cuts.append(transfer(own_cfg, supernet, arch, pictures, origin, target))
    print(table(cuts))


def architecture_paths(args: Namespace) -> list[Path]:
    """The JSON files to cut."""
    if bool(args.superconfig) == bool(args.all):
        raise ValueError("name one architecture (--superconfig) or a folder of them (--all)")
    if args.superconfig:
        return [Path(args.superconfig)]
    paths = sorted(Path(args.all).glob("*.json"))
    if not paths:
        raise ValueError(f"--all {args.all} holds no *.json")
    return paths


class Pictures(NamedTuple):
    """What the cuts are calibrated and scored on; None where it is not there."""

    training: PoseDataset | None
    evaluation: EvaluationSet | None


def read_records(cfg: CfgNode, with_ap: bool) -> Pictures:
    """The splits of `cfg`, read once for all cuts."""
    training = evaluation = None
    try:
        training = build_dataset(cfg)
    except ValueError as error:
        logger.warning("not calibrated: %s", error)
    try:
        evaluation = build_evaluation_set(cfg) if with_ap else None
    except ValueError as error:
        logger.warning("not evaluated: %s", error)
    return Pictures(training, evaluation)


def transfer(
    cfg: CfgNode,
    supernet: SuperLitePose,
    arch: ArchSpec,
    pictures: Pictures,
    origin: dict[str, str],
    path: Path,
) -> Cut:
    """Cut `arch`, verify it, calibrate it where there are pictures, and save it to `path`."""
    subnet = extract_subnet(supernet, arch).to(next(supernet.parameters()).device).eval()
    difference = largest_difference(supernet, subnet, arch)
    subnet = subnet.to(memory_format=torch.channels_last)
    data, calibrated = pictures.evaluation, 0
    settings, loading = InferenceSettings.from_config(cfg), LoaderSettings.from_config(cfg)
    before = average_precision(settings, subnet, data, loading) if data else None
    if pictures.training is not None:
        batches = calibration_batches(cfg, pictures.training, next(subnet.parameters()).device)
        calibrated = recalibrate(subnet, batches, cfg.SUPERNET.CALIBRATION_IMAGES)
    after = average_precision(settings, subnet, data, loading) if data and calibrated else None
    save_checkpoint(
        path,
        state_dict=subnet.state_dict(),
        arch=arch.to_dict(),
        provenance=origin | {"calibration_images": calibrated, "config": cfg.dump()},
    )
    logger.info("%s, calibrated on %d pictures: %s", path.name, calibrated, path)
    gmacs = count_macs(subnet, arch.img_size)["true"] / 1e9
    name = path.name.removesuffix(".pth.tar")
    return Cut(name, difference, before, after, count_params(subnet), gmacs)


@torch.no_grad()
def largest_difference(supernet: SuperLitePose, subnet: LitePose, arch: ArchSpec) -> float:
    """Of any output value, on a seeded picture of noise at the architecture's size."""
    noise = torch.randn(
        1, 3, arch.img_size, arch.img_size, generator=torch.Generator().manual_seed(0)
    ).to(next(supernet.parameters()).device)
    pairs = zip(supernet(noise, arch), subnet(noise), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def table(cuts: list[Cut]) -> str:
    """Markdown."""

    def shown(ap: float | None) -> str:
        return "-" if ap is None else f"{ap:.3f}"

    rows = [
        f"| {cut.name} | {cut.difference:g} | {shown(cut.ap_before)} | {shown(cut.ap_after)} "
        f"| {cut.params:,} | {cut.gmacs:.3f} |"
        for cut in cuts
    ]
    head = (
        "| Arch | max difference | AP uncalibrated | AP calibrated | parameters | GMACs |\n"
        "|---|---|---|---|---|---|"
    )
    return "\n".join([head, *rows])


if __name__ == "__main__":
    cli.run(main)
