"""Train a network.

    python dist_train.py --cfg experiments/coco/mobilenet/mobile.yaml \\
        --superconfig mobile_configs/search-XS.json TRAIN.END_EPOCH 1
    torchrun --nproc_per_node=8 dist_train.py --cfg experiments/crowd_pose/mobilenet/mobile.yaml \\
        --superconfig mobile_configs/search-S.json

Runs on the CPU, on one GPU, or in several processes. The same command resumes an interrupted run
from its last checkpoint (AUTO_RESUME). On SIGTERM or Ctrl-C training finishes the current step (one
more in several processes), saves a checkpoint and exits with code 75.
"""

from __future__ import annotations

import lib  # isort: skip  # noqa: F401  (before torch)

import logging
from argparse import Namespace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from yacs.config import CfgNode

from arch_manager import ArchManager
from lib.codec import codec_of
from lib.config import default_config, load_config
from lib.core.distill import Distillation, Imitation, codec_shift
from lib.core.flips import FlipConsistency
from lib.core.loss import MultiLossFactory
from lib.core.trainer import SupernetPlan
from lib.deploy.fold import fold_norms
from lib.keypoints import keypoints_of
from lib.models import build_model, place
from lib.models.arch import ArchSpec, width_share
from lib.models.head import with_tag_maps
from lib.models.layers.branches import fold_branches
from lib.models.layers.sync import synchronize_norms
from lib.models.load import NetworkFile, read_network
from lib.models.pieces import arch_macs, pieces_from_config
from lib.models.pose_supermobilenet import SuperLitePose
from lib.models.reorder import sort_channels
from lib.training.batch_size import require_gpu
from lib.training.run import train
from lib.training.sorting import sorting_images
from lib.training.stopping import ignore_sigterm
from lib.utils import cli
from lib.utils.checkpoint import fit_weights, load_checkpoint, unwrap, weights_of
from lib.utils.complexity import count_macs, count_params
from lib.utils.device import half_type
from lib.utils.dist import Process, leave, start_process, wrap
from lib.utils.lock import holding
from lib.utils.logger import create_logger
from lib.utils.recorded import check_same_joints, config_of

logger = logging.getLogger("lib.train")

# MODEL.PRETRAINED_PARTS -> prefixes of the layers that keep their random initialization
FRESH_PARTS = {"all": (), "not_final": ("final",), "backbone": ("deconv", "final")}


def parse_args() -> Namespace:
    parser = cli.parser(__doc__)
    cli.add_process_flags(parser)
    parser.add_argument("--teacher", help="weights of a network to distill heatmaps from")
    return parser.parse_intermixed_args()


def main() -> int | None:
    args = parse_args()
    arch = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    cfg = load_config(args.cfg, args.opts, img_size=arch.img_size if arch else None)
    process = start_process(cfg, args)
    require_gpu(cfg, process)
    output_dir, log_dir = create_logger(cfg, args.cfg, "train", process.is_main)
    with holding(output_dir, process):
        set_backends(cfg)
        model = start_model(cfg, arch, process)
        criterion = start_criterion(cfg, args.teacher, process.device)
        plan = supernet_plan(cfg, unwrap(model))
        code = train(cfg, model, criterion, plan, process, output_dir, log_dir)
    if code == cli.STOPPED and process.world_size > 1:
        ignore_sigterm()
    leave(process)
    return code


def set_backends(cfg: CfgNode) -> None:
    """Seed PyTorch's generators (initial weights) with SEED; apply CUDNN.* to cuDNN."""
    torch.manual_seed(cfg.SEED)
    torch.backends.cudnn.benchmark = cfg.CUDNN.BENCHMARK
    torch.backends.cudnn.deterministic = cfg.CUDNN.DETERMINISTIC
    torch.backends.cudnn.enabled = cfg.CUDNN.ENABLED


def start_model(cfg: CfgNode, arch: ArchSpec | None, process: Process) -> nn.Module:
    """The network with its initial weights on its device, under DDP with several processes."""
    model = build_model(cfg, arch)
    is_supernet = isinstance(model, SuperLitePose)
    if cfg.MODEL.PRETRAINED and cfg.MODEL.INIT_WEIGHTS:
        load_pretrained(cfg, model)
        if isinstance(model, SuperLitePose) and cfg.SUPERNET.SORT_CHANNELS:
            sort_channels(model, sorting_images(cfg, torch.device("cpu")))
    macs = count_macs(model, cfg.DATASET.INPUT_SIZE)
    logger.info(
        f"{cfg.MODEL.NAME} at {cfg.DATASET.INPUT_SIZE} px: {count_params(model) / 1e6:.3f} M "
        f"parameters, {macs['true'] / 1e9:.3f} GMACs (paper's rule: {macs['paper'] / 1e9:.2f})"
    )
    model = place(model, process.device, cfg.MODEL.CHANNELS_LAST)
    if cfg.MODEL.SYNC_BN and process.world_size > 1:
        model = synchronize_norms(model)
    if cfg.MODEL.COMPILE:
        if is_supernet:
            raise ValueError("MODEL.COMPILE cannot be used for a supernet, whose shapes change")
        model = cast(nn.Module, torch.compile(model))
    return wrap(model, process)


def load_pretrained(cfg: CfgNode, model: nn.Module) -> None:
    """Load the MODEL.PRETRAINED_PARTS of the weights MODEL.PRETRAINED into `model`."""
    path, parts = cfg.MODEL.PRETRAINED, cfg.MODEL.PRETRAINED_PARTS
    saved = load_checkpoint(path)
    if parts == "all":
        check_same_joints(config_of(saved, path), path, cfg, is_train=True)
    state = weights_of(saved, path)
    if not cfg.MODEL.KERNEL_BRANCHES:
        state = fold_branches(state, path)
    state, further = with_tag_maps(state, model, cfg.MODEL.NUM_JOINTS)
    if further:
        layers = ", ".join(f"{count} of {name}" for name, count in further.items())
        logger.info("further tag maps start near 0: %s", layers)
    fit_weights(model, state, path, FRESH_PARTS[parts])
    logger.info("%s weights from %s", parts, path)


def start_criterion(cfg: CfgNode, teacher: str | None, device: torch.device) -> nn.Module:
    """The losses of LOSS.*, plus heatmap distillation if `teacher` names a file of weights."""
    loss, criterion = cfg.LOSS, MultiLossFactory.from_config(cfg)
    if not teacher and default_config().TEACHER != cfg.TEACHER:
        logger.info("TEACHER.* has no effect: --teacher names no weights")
    taught = distill(cfg, criterion, teacher, device) if teacher else criterion
    if not loss.FLIP_CONSISTENCY:
        return taught
    return FlipConsistency(
        taught,
        flip_index=flip_index(cfg, device),
        heatmap_factors=[loss.FLIP_CONSISTENCY * factor for factor in criterion.heatmap_factors],
        tag_factors=[loss.FLIP_CONSISTENCY * factor for factor in criterion.pull_factors],
    )


def distill(
    cfg: CfgNode, criterion: MultiLossFactory, teacher: str, device: torch.device
) -> Distillation:
    """`criterion` with the terms of the network in the file `teacher`."""
    network = read_teacher(cfg, teacher)
    size = cfg.TEACHER.INPUT_SIZE or network.input_size
    codec = network.cfg.MODEL.CODEC
    logger.info("teacher %s at %d px, codec %s", teacher, size, codec)
    folded = fold_norms(network.build(device)).requires_grad_(False)  # exact, and faster
    dtype = half_type(device) if cfg.TEACHER.HALF_PRECISION else torch.float32
    frozen = place(folded, device, cfg.MODEL.CHANNELS_LAST).to(dtype)
    return Distillation(
        criterion,
        frozen,
        img_size=size,
        dtype=dtype,
        tags_factor=cfg.TEACHER.TAGS_FACTOR,
        flip_index=flip_index(cfg, device) if cfg.TEACHER.FLIP_TEST else None,
        shift=codec_shift(codec_of(cfg), codec_of(network.cfg)),
        share=cfg.TEACHER.SHARE,
    )


def flip_index(cfg: CfgNode, device: torch.device) -> torch.Tensor:
    """(K,) the joint that each joint of the training becomes when an image is flipped."""
    spec = keypoints_of(cfg, is_train=True)
    index = (spec.with_center() if cfg.DATASET.WITH_CENTER else spec).flip_index
    return torch.tensor(index, device=device)


def read_teacher(cfg: CfgNode, path: str | Path) -> NetworkFile:
    """The network in `path`; ValueError if its outputs differ in kind from those of `cfg`."""
    teacher = read_network(path, like=cfg)
    keys = [("MODEL", "NUM_JOINTS"), ("LOSS", "NUM_STAGES")]
    if cfg.TEACHER.TAGS_FACTOR and not can_teach_tags(cfg, teacher.cfg.MODEL.AE_TAG_DIMS):
        keys.append(("MODEL", "AE_TAG_DIMS"))
    for node, key in keys:
        theirs, ours = teacher.cfg[node][key], cfg[node][key]
        if theirs != ours:
            raise ValueError(f"--teacher {path} has {node}.{key} {theirs}, the student {ours}")
    return teacher


def can_teach_tags(cfg: CfgNode, dimensions: int) -> bool:
    """Whether a teacher with tags of `dimensions` numbers can teach the tags of `cfg`.

    A flip test of the teacher has twice as many.
    """
    taught = (dimensions, 2 * dimensions) if cfg.TEACHER.FLIP_TEST else (dimensions,)
    return cfg.MODEL.AE_TAG_DIMS in taught


def supernet_plan(cfg: CfgNode, model: nn.Module) -> SupernetPlan | None:
    """Which sub-networks are trained in each step (SUPERNET.*); None if `model` is no supernet."""
    if not isinstance(model, SuperLitePose):
        return None
    manager = ArchManager.from_config(cfg, model.arch)
    pieces_of = pieces_from_config(cfg)

    def describe(arch: ArchSpec) -> dict[str, float]:
        return {
            "resolution": arch.img_size,
            "width": width_share(arch, manager.largest),
            "GMACs": arch_macs(pieces_of(arch))["true"] / 1e9,
        }

    if cfg.SUPERNET.SAMPLING == "uniform":
        return SupernetPlan(lambda step: [manager.sample(step)], describe=describe)
    count, factor = cfg.SUPERNET.SANDWICH_RANDOM, cfg.SUPERNET.IMITATION_FACTOR
    imitate = Imitation(cfg.MODEL.NUM_JOINTS, factor) if factor else None
    return SupernetPlan(lambda step: manager.sandwich(step, count), imitate, describe)


if __name__ == "__main__":
    cli.run(main)
