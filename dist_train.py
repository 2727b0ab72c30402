"""Train a network.

    python dist_train.py --cfg experiments/coco/mobilenet/mobile.yaml \\
        --superconfig mobile_configs/search-XS.json TRAIN.END_EPOCH 1
    torchrun --nproc_per_node=8 dist_train.py --cfg experiments/crowd_pose/mobilenet/mobile.yaml \\
        --superconfig mobile_configs/search-S.json

Runs on the CPU, on one GPU, or as one of several processes. A run that was cut off goes on from
its last checkpoint when the same command is given again (AUTO_RESUME). SIGTERM and Ctrl-C let the
step end, save, and leave with exit code 75.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from yacs.config import CfgNode

from arch_manager import ArchManager
from lib.config import load_config
from lib.core.distill import Distillation, Imitation, freeze_teacher, read_teacher
from lib.core.evaluate import evaluate_predictions, markdown_table
from lib.core.inference import InferenceSettings
from lib.core.loss import MultiLossFactory
from lib.core.meter import Meter
from lib.core.pipeline import LoaderSettings
from lib.core.predictions import predict_set
from lib.core.results import Prediction
from lib.core.trainer import Precision, SupernetPlan, do_train
from lib.dataset.build import (
    EvaluationSet,
    build_dataset,
    build_evaluation_set,
    make_dataloader,
)
from lib.models import build_model
from lib.models.arch import ArchSpec, width_share
from lib.models.layers.sync import synchronize_norms
from lib.models.pieces import arch_macs, pieces_from_config
from lib.models.pose_supermobilenet import SuperLitePose
from lib.models.reorder import sort_channels
from lib.training.average import WeightAverage
from lib.training.board import Board
from lib.training.optim import get_optimizer, get_scheduler
from lib.training.state import Layout, TrainingState, place_schedule, resume, save_training
from lib.training.stopping import StopRequest, ignore_end
from lib.utils import cli
from lib.utils.checkpoint import (
    check_same_joints,
    config_of,
    fit_weights,
    load_checkpoint,
    newest_whole,
    save_weights,
    unwrap,
)
from lib.utils.complexity import count_macs, count_params
from lib.utils.dist import (
    Process,
    barrier,
    broadcast,
    leave,
    share_buffers,
    start_process,
    wrap,
)
from lib.utils.files import versions_of
from lib.utils.logger import create_logger
from lib.utils.run_card import RUN_CARD, add_start

logger = logging.getLogger("lib.train")

CHECKPOINT, FINAL = "checkpoint.pth.tar", "final_state0.pth.tar"  # in the output folder
# MODEL.PRETRAINED_PARTS -> names that start from scratch
FRESH_PARTS = {"all": (), "not_final": ("final",), "backbone": ("deconv", "final")}


def parse_args() -> Namespace:
    parser = cli.parser(__doc__)
    cli.add_process_flags(parser)
    parser.add_argument("--teacher", help="checkpoint of a network to distill heatmaps from")
    return parser.parse_intermixed_args()


def main() -> int | None:
    args = parse_args()
    arch = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    cfg = load_config(args.cfg, args.opts, img_size=arch.img_size if arch else None)
    process = start_process(cfg, args)
    output_dir, log_dir = create_logger(cfg, args.cfg, "train", process.is_main)
    set_backends(cfg)
    model = start_model(cfg, arch, process)
    criterion = start_criterion(cfg, args.teacher, process.device)
    code = train(cfg, model, criterion, process, output_dir, log_dir)
    if code == cli.STOPPED and process.world_size > 1:
        ignore_end()
    leave(process)
    return code


def set_backends(cfg: CfgNode) -> None:
    """SEED governs the weights; CUDNN.* as the keys say."""
    torch.manual_seed(cfg.SEED)
    torch.backends.cudnn.benchmark = cfg.CUDNN.BENCHMARK
    torch.backends.cudnn.deterministic = cfg.CUDNN.DETERMINISTIC
    torch.backends.cudnn.enabled = cfg.CUDNN.ENABLED


def start_model(cfg: CfgNode, arch: ArchSpec | None, process: Process) -> nn.Module:
    """The network with its first weights, on its device, in its memory format."""
    model = build_model(cfg, arch)
    if cfg.MODEL.PRETRAINED and cfg.MODEL.INIT_WEIGHTS:
        path, parts = cfg.MODEL.PRETRAINED, cfg.MODEL.PRETRAINED_PARTS
        saved = load_checkpoint(path)
        if parts == "all":
            check_same_joints(config_of(saved), path, cfg, is_train=True)
        fit_weights(model, saved, path, FRESH_PARTS[parts])
        logger.info("%s weights from %s", parts, path)
        if isinstance(model, SuperLitePose) and cfg.SUPERNET.SORT_CHANNELS:
            sort_channels(model)
    macs = count_macs(model, cfg.DATASET.INPUT_SIZE)
    logger.info(
        "%s at %d px: %.3f M parameters, %.3f GMACs (paper's rule: %.2f)",
        *(cfg.MODEL.NAME, cfg.DATASET.INPUT_SIZE, count_params(model) / 1e6),
        *(macs["true"] / 1e9, macs["paper"] / 1e9),
    )
    memory = torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format
    model = model.to(process.device, memory_format=memory)
    if cfg.MODEL.SYNC_BN and process.world_size > 1:
        model = synchronize_norms(model)
    if cfg.MODEL.COMPILE:
        if isinstance(model, SuperLitePose):
            raise ValueError("MODEL.COMPILE is for one network; a supernet changes at every step")
        model = torch.compile(model)
    return wrap(model, process)


def start_criterion(cfg: CfgNode, teacher: str | None, device: torch.device) -> nn.Module:
    """The losses of LOSS.*, and the distance to a teacher where there is one."""
    criterion = MultiLossFactory.from_config(cfg)
    if teacher is None:
        return criterion
    known = read_teacher(cfg, teacher)
    network = freeze_teacher(build_model(known.cfg, known.arch), teacher, device)
    logger.info("teacher %s at %d px", teacher, known.img_size)
    return Distillation(criterion, network, known.img_size)


def train(
    cfg: CfgNode,
    model: nn.Module,
    criterion: nn.Module,
    process: Process,
    output_dir: Path,
    log_dir: Path,
) -> int | None:
    """All epochs that are left, with checkpoints and evaluations on the way; an exit code."""
    loader = make_dataloader(cfg, build_dataset(cfg), process.rank, process.world_size)
    steps = -(-len(loader) // cfg.TRAIN.ACCUMULATE)  # an epoch
    data = build_evaluation_set(cfg) if cfg.TRAIN.VALIDATE_EVERY else None
    precision = Precision(
        *(process.device, cfg.FP16.ENABLED),
        *(cfg.FP16.STATIC_LOSS_SCALE, cfg.FP16.DYNAMIC_LOSS_SCALE),
    )
    state = start_state(cfg, model, precision, len(loader.dataset), steps, process)
    resumed_from = resume_if_wanted(cfg, state, output_dir, process)
    first, last = state.epoch, cfg.TRAIN.END_EPOCH
    done = (first - cfg.TRAIN.BEGIN_EPOCH) * steps + state.step
    place_schedule(state, done)
    if first >= last:
        logger.info("nothing to do: %s is trained for %d epochs already", output_dir, first)
        if process.is_main and not (output_dir / FINAL).exists():
            save_weights(output_dir / FINAL, state.shown)
        return None
    board = None
    if process.is_main:
        add_start(output_dir / RUN_CARD, facts(cfg, state, process, resumed_from, done))
        board = Board(cfg, log_dir, output_dir, done)
    meter = Meter(
        total_steps=(last - cfg.TRAIN.BEGIN_EPOCH) * steps,
        every=cfg.PRINT_FREQ,
        step=done,
        verbose=cfg.VERBOSE and process.is_main,
        board=board,
        process=process,
        describe=describe_arch(cfg, unwrap(model)),
    )
    logger.info(
        "%d pictures, %d steps an epoch, epochs %d to %d on %d x %s",
        *(len(loader.dataset), steps, first, last, process.world_size, process.device),
    )
    plan = supernet_plan(cfg, unwrap(model))
    with StopRequest(process, cfg.DIST_TIMEOUT) as request:
        after_step = end_of_step(cfg, state, meter, request, output_dir, process)
        for epoch in range(first, last):
            whole = do_train(
                *(cfg, model, loader, criterion, state.optimizer, state.scheduler, precision),
                *(epoch, meter, plan, state.step, after_step),
            )
            if not whole:
                barrier(process)  # the first process has saved
                logger.info("stopped after step %d; the same command goes on from it", meter.step)
                return cli.STOPPED
            with meter.paused():
                found = None
                if data is not None and is_due(cfg, epoch + 1, cfg.TRAIN.VALIDATE_EVERY):
                    if process.is_main:  # an evaluation may be longer than a job's last minutes
                        save_training(state, output_dir / CHECKPOINT, cfg.TRAIN.KEEP)
                    found = predict_all(cfg, state, data, process)
                state.epoch, state.step = epoch + 1, 0
                if process.is_main:
                    if found is not None:
                        keep_best(cfg, state, data, found, output_dir, board, meter.step)
                    if is_due(cfg, state.epoch, cfg.TRAIN.SAVE_EVERY):
                        save_training(state, output_dir / CHECKPOINT, cfg.TRAIN.KEEP)
                barrier(process)
    if process.is_main:
        save_weights(output_dir / FINAL, state.shown)
        logger.info("trained: %s", output_dir / FINAL)
        board.close()
    return None


def start_state(
    cfg: CfgNode,
    model: nn.Module,
    precision: Precision,
    pictures: int,
    steps: int,
    process: Process,
) -> TrainingState:
    """A run of `steps` an epoch that has not begun."""
    optimizer = get_optimizer(cfg, model, process.world_size)
    arch = unwrap(model).arch  # None: MODEL.EXTRA describes the network
    own = cfg.TRAIN
    return TrainingState(
        *(model, optimizer, get_scheduler(cfg, optimizer, steps), precision.scaler),
        arch=arch.to_dict() if arch else None,
        config=cfg.dump(),
        epoch=own.BEGIN_EPOCH,
        layout=Layout(pictures, process.world_size, own.IMAGES_PER_GPU, own.ACCUMULATE),
        average=WeightAverage(model, own.EMA) if own.EMA else None,
    )


def facts(
    cfg: CfgNode, state: TrainingState, process: Process, resumed_from: Path | None, step: int
) -> dict[str, Any]:
    """What the run card says of a start after `step`, beside code and machine."""
    network = unwrap(state.model)
    return {
        "processes": process.world_size,
        "device": str(process.device),
        "seed": cfg.SEED,
        "resumed_from": resumed_from and {"checkpoint": str(resumed_from), "step": step},
        "parameters": count_params(network),
        "macs": count_macs(network, cfg.DATASET.INPUT_SIZE),
        "architecture": state.arch,
        "config": yaml.safe_load(state.config),
    }


def describe_arch(cfg: CfgNode, model: nn.Module) -> Callable[[ArchSpec], dict[str, float]] | None:
    """What the curves show of a sub-network; None for a plain network."""
    if not isinstance(model, SuperLitePose):
        return None
    pieces_of = pieces_from_config(cfg)
    return lambda arch: {
        "resolution": arch.img_size,
        "width": width_share(arch, model.arch),
        "GMACs": arch_macs(pieces_of(arch))["true"] / 1e9,
    }


def end_of_step(
    cfg: CfgNode,
    state: TrainingState,
    meter: Meter,
    request: StopRequest,
    output_dir: Path,
    process: Process,
) -> Callable[[], bool]:
    """What is done after each step: average, checkpoint; it says whether to stop."""

    def after_step() -> bool:
        state.step += 1
        if state.average:
            state.average.update(state.model)
        stop = request.agreed()
        if stop or (cfg.TRAIN.SAVE_STEPS and meter.step % cfg.TRAIN.SAVE_STEPS == 0):
            meter.check()
            if process.is_main:
                save_training(state, output_dir / CHECKPOINT, cfg.TRAIN.KEEP)
        return stop

    return after_step


def supernet_plan(cfg: CfgNode, model: nn.Module) -> SupernetPlan | None:
    """Which sub-networks take part in each step (SUPERNET.*); None for a plain network."""
    if not isinstance(model, SuperLitePose):
        return None
    manager = ArchManager.from_config(cfg, model.arch)
    if cfg.SUPERNET.SAMPLING == "uniform":
        return SupernetPlan(lambda step: [manager.sample(step)])
    count, factor = cfg.SUPERNET.SANDWICH_RANDOM, cfg.SUPERNET.IMITATION_FACTOR
    imitate = Imitation(cfg.MODEL.NUM_JOINTS, factor) if factor else None
    return SupernetPlan(lambda step: manager.sandwich(step, count), imitate)


def resume_if_wanted(
    cfg: CfgNode, state: TrainingState, output_dir: Path, process: Process
) -> Path | None:
    """Go on from TRAIN.CHECKPOINT or the newest in `output_dir`, as AUTO_RESUME and RESUME say.

    The checkpoint; None for a new run.
    """
    path = Path(cfg.TRAIN.CHECKPOINT or output_dir / CHECKPOINT)
    must = cfg.TRAIN.RESUME or bool(cfg.TRAIN.CHECKPOINT)
    wanted = must or (cfg.AUTO_RESUME and bool(versions_of(path)))
    if not broadcast(process, wanted):
        return None
    if not cfg.TRAIN.CHECKPOINT:
        path = newest_for_all(path, process)
    resume(state, path)
    within = f" and {state.step} steps" if state.step else ""
    logger.info("resumed from %s after epoch %d%s", path, state.epoch, within)
    return path


def newest_for_all(path: Path, process: Process) -> Path:
    """What the first process finds to be the newest whole checkpoint, or its ValueError, on all."""
    try:
        answer = {"path": str(newest_whole(path))} if process.is_main else None
    except ValueError as error:
        answer = {"problem": str(error)}
    answer = broadcast(process, answer)
    if "problem" in answer:
        raise ValueError(answer["problem"])
    return Path(answer["path"])


def is_due(cfg: CfgNode, epochs: int, every: int) -> bool:
    """Whether something that is done every so many epochs, and after the last, is now."""
    return epochs == cfg.TRAIN.END_EPOCH or epochs % every == 0


def predict_all(
    cfg: CfgNode, state: TrainingState, data: EvaluationSet, process: Process
) -> list[Prediction]:
    """Predictions on `data` by all processes; the first has them."""
    share_buffers(state.shown, process)
    predictions, problems = predict_set(
        InferenceSettings.from_config(cfg),
        state.shown,
        data,
        process,
        loading=LoaderSettings.from_config(cfg),
    )
    for problem in problems:
        logger.warning("%s", problem)
    return predictions


def keep_best(
    cfg: CfgNode,
    state: TrainingState,
    data: EvaluationSet,
    predictions: list[Prediction],
    output_dir: Path,
    board: Board,
    step: int,
) -> None:
    """Print and draw AP and `predictions`, and save the weights where they are the best."""
    table = evaluate_predictions(data, predictions, output_dir)
    logger.info("evaluation after step %d\n%s", step, markdown_table(table, cfg.MODEL.NAME))
    board.evaluation(step, table, data, predictions)
    ap = table.get("AP", 0.0)
    if ap >= state.best_ap:
        state.best_ap = ap
        save_weights(output_dir / "model_best.pth.tar", state.shown)


if __name__ == "__main__":
    cli.run(main)
