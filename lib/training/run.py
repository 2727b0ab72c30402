"""A training run: its epochs, evaluations and checkpoints, started or resumed."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml
from torch import nn
from yacs.config import CfgNode

from lib.core.evaluate import evaluate_predictions, markdown_table
from lib.core.inference import InferenceSettings
from lib.core.meter import Meter
from lib.core.pipeline import LoaderSettings
from lib.core.predictions import predict_set
from lib.core.trainer import Criterion, StepSettings, SupernetPlan, do_train
from lib.dataset.build import (
    EvaluationSet,
    build_evaluation_set,
    build_training_set,
    make_dataloader,
)
from lib.dataset.mixed import MixedDataset, TrainingSet
from lib.dataset.progressive import Growing, InputSizes
from lib.models.arch import ArchSpec
from lib.training.average import WeightAverage
from lib.training.batch_size import settle_batch
from lib.training.board import Board
from lib.training.optim import get_optimizer, get_scaler, get_scheduler
from lib.training.state import Layout, TrainingState, place_schedule, resume, save_training
from lib.training.stopping import StopRequest
from lib.utils.checkpoint import newest_whole, save_weights, unwrap
from lib.utils.cli import STOPPED
from lib.utils.complexity import count_macs, count_params
from lib.utils.dist import Process, barrier, broadcast, from_main, share_buffers
from lib.utils.files import versions_of
from lib.utils.run_card import RUN_CARD, add_start

logger = logging.getLogger(__name__)

# In the output folder.
CHECKPOINT, FINAL, BEST = "checkpoint.pth.tar", "final_state0.pth.tar", "model_best.pth.tar"


def train(
    cfg: CfgNode,
    model: nn.Module,
    criterion: Criterion,
    plan: SupernetPlan | None,
    process: Process,
    output_dir: Path,
    log_dir: Path,
) -> int | None:
    """Train the remaining epochs. Return the exit code: None, or STOPPED after a signal.

    plan: the sub-networks of each step of a supernet; None for any other network. TRAIN.* sets when
    checkpoints, evaluations and scalars are written.
    """
    sizes, dataset = InputSizes.from_config(cfg), build_training_set(cfg)
    checkpoint = checkpoint_to_resume(cfg, process, output_dir)
    cfg = settle_batch(cfg, dataset, model, criterion, plan, process, checkpoint)
    crops = Growing(dataset, sizes)
    loader = make_dataloader(cfg, crops, process.rank, process.world_size)
    images, steps = len(dataset), -(-len(loader) // cfg.TRAIN.ACCUMULATE)  # per epoch
    data = build_evaluation_set(cfg) if cfg.TRAIN.VALIDATE_EVERY else None
    state = start_state(cfg, model, process, images, steps)
    if checkpoint:
        resume(state, checkpoint)
    first, last = state.epoch, cfg.TRAIN.END_EPOCH
    done = (first - cfg.TRAIN.BEGIN_EPOCH) * steps + state.step
    place_schedule(state, done)
    if first >= last or is_out_of_patience(cfg, state):
        logger.info("nothing to do: %s is trained for %d epochs already", output_dir, first)
        if process.is_main and not (output_dir / FINAL).exists():
            save_weights(output_dir / FINAL, state.evaluated)
        return None
    board = None
    if process.is_main:
        add_start(output_dir / RUN_CARD, describe_start(cfg, state, dataset, checkpoint, done))
        board = Board(cfg, log_dir, output_dir, done)
    meter = start_meter(cfg, process, plan, board, sizes, steps, done)
    logger.info(
        f"{images} images, {steps} steps an epoch, epochs {first} to {last} on "
        f"{process.world_size} x {process.device}"
    )
    if cfg.TRAIN.PROGRESSIVE:
        logger.info("inputs of %s", sizes)
    settings = StepSettings.from_config(cfg)
    open_board = contextlib.closing(board) if board else contextlib.nullcontext()
    with open_board, StopRequest(process, cfg.DIST_TIMEOUT) as request:
        run = Run(cfg, state, meter, request, output_dir, data, board)
        for epoch in range(first, last):
            sized = replace(settings, crop_size=sizes.at(epoch))
            if not do_train(state, loader, criterion, sized, meter, plan, run.after_step):
                barrier(process)  # the first process has saved
                logger.info("stopped after step %d; the same command resumes", meter.step)
                return STOPPED
            with meter.paused():
                if run.after_epoch():
                    break
        if process.is_main:
            save_weights(output_dir / FINAL, state.evaluated)
            logger.info("trained: %s", output_dir / FINAL)
    return None


def start_state(
    cfg: CfgNode, model: nn.Module, process: Process, images: int, steps: int
) -> TrainingState:
    """The state before the first step; `images` and `steps` are per epoch."""
    optimizer = get_optimizer(cfg, model, process.world_size)
    arch = cast("ArchSpec | None", unwrap(model).arch)
    return TrainingState(
        model=model,
        optimizer=optimizer,
        scheduler=get_scheduler(cfg, optimizer, steps),
        scaler=get_scaler(cfg, process.device),
        process=process,
        epoch=cfg.TRAIN.BEGIN_EPOCH,
        arch=arch.to_dict() if arch else None,
        config=cfg.dump(),
        layout=Layout(
            images=images,
            processes=process.world_size,
            images_per_gpu=cfg.TRAIN.IMAGES_PER_GPU,
            accumulate=cfg.TRAIN.ACCUMULATE,
        ),
        average=WeightAverage(model, cfg.TRAIN.EMA) if cfg.TRAIN.EMA else None,
    )


def start_meter(
    cfg: CfgNode,
    process: Process,
    plan: SupernetPlan | None,
    board: Board | None,
    sizes: InputSizes,
    steps: int,
    done: int,
) -> Meter:
    """The meter of a run with `steps` steps per epoch, after `done` steps in all."""
    return Meter(
        total_steps=(cfg.TRAIN.END_EPOCH - cfg.TRAIN.BEGIN_EPOCH) * steps,
        every=cfg.PRINT_FREQ,
        step=done,
        verbose=cfg.VERBOSE and process.is_main,
        sink=board.training if board else None,
        process=process,
        describe=plan.describe if plan else None,
        work=lambda step: sizes.pixels(cfg.TRAIN.BEGIN_EPOCH, step / steps),
    )


def checkpoint_to_resume(cfg: CfgNode, process: Process, output_dir: Path) -> Path | None:
    """The checkpoint that AUTO_RESUME, TRAIN.RESUME or TRAIN.CHECKPOINT ask for.

    It is TRAIN.CHECKPOINT, else the newest in `output_dir`; None for a new run.
    """
    path = Path(cfg.TRAIN.CHECKPOINT or output_dir / CHECKPOINT)
    required = cfg.TRAIN.RESUME or bool(cfg.TRAIN.CHECKPOINT)
    requested = required or (cfg.AUTO_RESUME and bool(versions_of(path)))
    if not broadcast(process, requested):
        return None
    return path if cfg.TRAIN.CHECKPOINT else from_main(process, lambda: newest_whole(path))


def is_out_of_patience(cfg: CfgNode, state: TrainingState) -> bool:
    """Whether TRAIN.PATIENCE ends the training; that is logged."""
    if not 0 < cfg.TRAIN.PATIENCE <= state.stale:
        return False
    logger.info(
        "TRAIN.PATIENCE: the last %d evaluations had no better AP than %.3f; ended after epoch %d",
        state.stale,
        state.best_ap,
        state.epoch,
    )
    return True


def describe_start(
    cfg: CfgNode,
    state: TrainingState,
    dataset: TrainingSet,
    resumed_from: Path | None,
    step: int,
) -> dict[str, Any]:
    """What the run card records of a start after `step`; `add_start` adds code and machine."""
    network = unwrap(state.model)
    return {
        "processes": state.process.world_size,
        "device": str(state.process.device),
        "seed": cfg.SEED,
        "resumed_from": resumed_from and {"checkpoint": str(resumed_from), "step": step},
        "parameters": count_params(network),
        "macs": count_macs(network, cfg.DATASET.INPUT_SIZE),
        "architecture": state.arch,
        "mix": dataset.summary() if isinstance(dataset, MixedDataset) else None,
        "config": yaml.safe_load(state.config),
    }


@dataclass
class Run:
    """What a run does after each step and each epoch: EMA, stop requests, saving, evaluation."""

    cfg: CfgNode
    state: TrainingState
    meter: Meter
    request: StopRequest
    output_dir: Path
    data: EvaluationSet | None  # None: no evaluations
    board: Board | None  # None: not rank 0

    def after_step(self) -> bool:
        """Update the EMA and save if due. Return whether all processes stop now."""
        state, every = self.state, self.cfg.TRAIN.SAVE_STEPS
        state.step += 1
        if state.average:
            state.average.update(state.model)
        stop = self.request.agreed()
        if stop or (every and self.meter.step % every == 0):
            self.meter.check()
            self.save()
        return stop

    def after_epoch(self) -> bool:
        """Evaluate and save, if due. Return whether TRAIN.PATIENCE ends the training."""
        state = self.state
        if self.data is not None and self.is_due(state.epoch + 1, self.cfg.TRAIN.VALIDATE_EVERY):
            self.save()  # the job may be stopped during the evaluation
            self.evaluate(self.data)
        state.epoch, state.step = state.epoch + 1, 0
        state.stale = broadcast(state.process, state.stale)  # rank 0 counts them
        ends = is_out_of_patience(self.cfg, state)
        if ends or self.is_due(state.epoch, self.cfg.TRAIN.SAVE_EVERY):
            self.save()
        barrier(state.process)
        return ends

    def is_due(self, epochs: int, every: int) -> bool:
        """Whether what is done every `every` epochs (0: never) and after the last is due."""
        return epochs == self.cfg.TRAIN.END_EPOCH or (every > 0 and epochs % every == 0)

    def save(self) -> None:
        if self.state.process.is_main:
            save_training(self.state, self.output_dir / CHECKPOINT, self.cfg.TRAIN.KEEP)

    def evaluate(self, data: EvaluationSet) -> None:
        """Predict in all processes; rank 0 scores, and saves the weights with the best AP."""
        state, step = self.state, self.meter.step
        share_buffers(state.evaluated, state.process)
        predictions, problems = predict_set(
            InferenceSettings.from_config(self.cfg),
            state.evaluated,
            data,
            state.process,
            loading=LoaderSettings.from_config(self.cfg),
        )
        if self.board is None:
            return
        for problem in problems:
            logger.warning("%s", problem)
        table = evaluate_predictions(data, predictions, self.output_dir)
        rows = markdown_table(table, self.cfg.MODEL.NAME)
        logger.info(f"evaluation after step {step}\n{rows}")
        self.board.evaluation(step, table, data, predictions)
        ap = table.get("AP", 0.0)
        state.stale = 0 if ap > state.best_ap else state.stale + 1
        if ap >= state.best_ap:
            state.best_ap = ap
            save_weights(self.output_dir / BEST, state.evaluated)
