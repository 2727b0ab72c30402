"""What valid.py evaluates: a network in a file of weights, an exported one, or no network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from yacs.config import CfgNode

from lib.analysis.oracle import Oracle
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.core.predictions import predict_set, predictions_of
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.dataset.shared import share_joints
from lib.models.arch import ArchSpec
from lib.models.load import NetworkFile
from lib.predictor import Runtime, build_network
from lib.utils.reading import hash_of

logger = logging.getLogger(__name__)


class Subject(NamedTuple):
    """What is evaluated, and on what."""

    predict: Callable[..., tuple[list[Prediction], list[str]]]  # of data, process, journals
    cfg: CfgNode
    arch: ArchSpec | None  # None: MODEL.EXTRA of `cfg` describes the network
    weights: str  # path; "" without a network
    sha256: str  # of the weights
    data: EvaluationSet  # of the joints that are scored
    others: tuple[str, ...] = ()  # SHA-256 of the other files of an exported network


def subject_of(
    cfg: CfgNode,
    network: NetworkFile | None,
    data: EvaluationSet,
    device: torch.device,
    runtime: str | None = None,
    oracle: str | None = None,
    share: bool = False,
) -> Subject:
    """A network in a file of weights with its settings, or the ground-truth maps of `cfg`.

    runtime: as in `lib.predictor.Predictor.load`. oracle: one of `lib.analysis.oracle.MODES`; it
    may do without a network. share: score only joints that network and data set have.
    """
    model, scored = None, None
    if network:
        logger.info("weights from %s", network.source)
        cfg = network.cfg
        model = build_network(network, device, Runtime(runtime))
        if share:
            data, scored = share_joints(data, network.spec)
    if oracle or model is None:
        model = Oracle.from_config(cfg, model, oracle or "both")
    settings = replace(InferenceSettings.from_config(cfg), scored=scored)
    return Subject(
        partial(predict_set, settings, model, loading=LoaderSettings.from_config(cfg)),
        cfg,
        network.arch if network else None,
        weights=str(network.source) if network else "",
        sha256=hash_of(network.source) if network else "",
        data=data,
    )


def exported_subject(
    cfg: CfgNode,
    path: Path,
    data: EvaluationSet,
    runtime: str | None = None,
    share: bool = False,
    progress: bool = False,
) -> Subject:
    """A network of `tools.export` with the settings of its card; it runs on the CPU.

    runtime: as in `lib.predictor.Predictor.load`. share: score only joints that network and data
    set have; without it, other joints are a ValueError. progress: show a progress bar.
    """
    from lib.deploy.evaluate import each_exported_outcome  # loads onnx
    from lib.deploy.exported import open_exported

    network = open_exported(path, runtime, threads=torch.get_num_threads(), callers=2)
    logger.info("exported network from %s", path)
    scored = None
    if share:
        data, scored = share_joints(data, network.spec)
    elif network.spec.joints != data.spec.joints:
        raise ValueError(
            f"{path} finds {network.spec.num_joints} joints ({network.spec.name}), and the data "
            f"set has {data.spec.num_joints} ({data.spec.name}); --joints shared scores the joints "
            "that both have"
        )
    others = path.with_suffix(".bin"), path.with_name("card.json")  # *.bin: next to *.xml
    outcomes = partial(each_exported_outcome, network, scored=scored, progress=progress)
    return Subject(
        partial(predictions_of, outcomes),
        cfg,
        network.arch,
        weights=str(path),
        sha256=hash_of(path),
        data=data,
        others=tuple(hash_of(other) for other in others if other.exists()),
    )
