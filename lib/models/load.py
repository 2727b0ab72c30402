"""Reads a network from a file of weights: settings, architecture and tensors.

    network = read_network("checkpoint.pth.tar")
    model = network.build(torch.device("cpu"))

The file may be

- a checkpoint of a training, or a sub-network of weight_transfer.py: both store their settings;
- `model_best.pth.tar` or `final_state0.pth.tar`: a state dict, whose settings are in the checkpoint
  or the run card in the same folder;
- published weights: a bare state dict, whose tensors determine the network (`structure.py`).

Every script and tool reads weights with `read_network`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.config import as_opts, keys_of, load_config, read_config
from lib.keypoints import KeypointSpec, keypoints_of
from lib.models import build_model, place
from lib.models.arch import ArchSpec, largest_arch
from lib.models.bare_weights import published, settings_of_tensors
from lib.models.layers.branches import fold_branches
from lib.models.record import AS_TRAINED, Record, check_trained_with, record_of, record_of_run
from lib.models.structure import (
    NO_SIZE,
    Structure,
    read_structure,
    same_network,
    split_channels,
)
from lib.utils.checkpoint import check_finite, fitting_weights, load_checkpoint, weights_of
from lib.utils.recorded import check_same_joints, other_joints, typed
from lib.utils.shipped import find_weights

PLAIN, SUPERNET = "pose_mobilenet", "pose_supermobilenet"


@dataclass(frozen=True)
class NetworkFile:
    """A network read from a file of weights."""

    source: Path
    cfg: CfgNode
    arch: ArchSpec | None  # None: MODEL.EXTRA of `cfg` describes the network
    state: Mapping[str, Tensor]
    epoch: int | None = None  # of a checkpoint
    supernet: str | None = None  # path of the supernet that a sub-network was extracted from
    recorded: Mapping[str, Any] = field(default_factory=dict)  # settings in the file; {}: none

    @property
    def kind(self) -> str:
        """MODEL.NAME."""
        return self.cfg.MODEL.NAME

    @property
    def spec(self) -> KeypointSpec:
        return keypoints_of(self.cfg, is_train=False)

    @property
    def codec(self) -> str:
        """MODEL.CODEC."""
        return self.cfg.MODEL.CODEC

    @property
    def input_size(self) -> int:
        """Pixels of the input's short or long side (TEST.SCALE_TYPE)."""
        return self.cfg.DATASET.INPUT_SIZE

    def build(self, device: torch.device) -> nn.Module:
        """The trained network in evaluation mode; ValueError when the tensors do not fit it."""
        hint = "check --cfg, --superconfig and KEY VALUE"
        try:
            with torch.device("meta"):  # no memory yet: the file may describe any size
                model = build_model(self.cfg, self.arch)
        except ValueError as error:
            raise ValueError(f"the network of {self.source}: {error}; {hint}") from None
        try:
            weights = fitting_weights(model, self.state, self.source)
        except ValueError as error:
            raise ValueError(f"{error}; {hint}") from None
        check_finite(weights, self.source)
        model.to_empty(device="cpu").load_state_dict(weights)
        return place(model, device, self.cfg.MODEL.CHANNELS_LAST).eval()

    def expect_subnet(self) -> NetworkFile:
        """`self`; ValueError if it is a supernet, which cannot be run as one network."""
        if self.kind == SUPERNET:
            raise ValueError(
                f"{self.source} is a supernet; extract a sub-network with weight_transfer.py"
            )
        return self

    def expect_supernet(self) -> NetworkFile:
        """`self`; ValueError if it is no supernet."""
        if self.kind != SUPERNET:
            raise ValueError(
                f"{self.source} is a {self.kind}; only a {SUPERNET} has sub-networks to extract"
            )
        return self


def read_network(
    path: str | Path,
    *,
    cfg: str | Path | None = None,
    superconfig: str | Path | None = None,
    opts: Sequence[str] = (),
    input_size: int | None = None,
    joints: str | Path | None = None,
    like: CfgNode | None = None,
) -> NetworkFile:
    """The network in `path`, or the project's own weights of this name, "litepose-xs-crowdpose-v2".

    cfg: an experiments/*.yaml, replaces the settings in the file, but for codec and tag dimensions.
    superconfig: a mobile_configs/*.json.
    opts: alternating keys and values, which override all other settings.
    input_size: in pixels, for a bare state dict of an unknown architecture.
    joints: "coco", "crowd_pose" or a joints file *.yaml, for a bare state dict.
    like: settings of another network, the fallback for input size and joints.

    ValueError, in one line, if the file cannot be read, a setting is missing (the message names the
    argument to pass), or the settings contradict the file.
    """
    path = find_weights(path)
    saved = load_checkpoint(path)
    state = fold_branches(weights_of(saved, path), path)
    structure = _structure_of(state, path)
    record = record_of(saved, path) or record_of_run(path, structure) or Record()
    arch = _architecture(path, record, structure, superconfig)
    size = input_size or _input_size(record, arch, bool(cfg), bool(superconfig))
    opts = [*_joint_keys(joints), *opts, "MODEL.KERNEL_BRANCHES", "False"]  # folded already
    if record.is_subnet:
        opts = ["MODEL.NAME", PLAIN, *opts]
    trained_with = record.trained_with(path)
    if cfg:
        of_weights = {key: trained_with[key] for key in trained_with.keys() - keys_of(cfg)}
        settings = load_config(cfg, [*as_opts(of_weights), *opts], size)
    elif record.config is not None:
        settings = _recorded_settings(record.config, f"the config in {path}", opts, size)
    else:
        structure = read_structure(state, path)
        settings = settings_of_tensors(structure, path, opts, size, like)
    _check_record(path, record, structure, settings)
    check_trained_with(path, trained_with, settings)
    _check_kind(path, structure, settings)
    arch = arch and _with_size(arch, settings.DATASET.INPUT_SIZE)
    if not (record.arch or superconfig):
        _check_largest(path, structure, settings)
    return NetworkFile(
        source=path,
        cfg=settings,
        arch=arch,
        state=state,
        epoch=typed(saved, "epoch", int, path),
        supernet=record.supernet,
        recorded=record.config or {},
    )


def _recorded_settings(
    config: dict[str, Any], source: str, opts: Sequence[str], size: int | None
) -> CfgNode:
    """The settings of a record; each ValueError names `source`."""
    try:
        return read_config(yaml.safe_dump(config), source, opts, size)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if source in message else f"{source}: {message}") from None


def as_trained(network: NetworkFile) -> list[str]:
    """Config keys and values for what belongs to the weights of `network`, besides the joints."""
    return as_opts({f"MODEL.{key}": network.cfg.MODEL[key] for key in AS_TRAINED})


def joint_opts(network: NetworkFile) -> list[str]:
    """Config keys and values that set the joints of `network`, whatever a yaml file says."""
    spec, center = network.spec, network.cfg.DATASET.WITH_CENTER
    count = str(spec.num_joints + center)
    opts = [*_joint_keys(spec.name), "DATASET.NUM_JOINTS", count, "MODEL.NUM_JOINTS", count]
    opts += ["DATASET.WITH_CENTER", str(center)]
    if spec.is_custom:
        for key, value in spec.to_dict().items():
            opts += [f"DATASET.KEYPOINTS.{key}", str(value)]
    return opts


def _joint_keys(joints: str | Path | None) -> list[str]:
    """Config keys for the name of a data set or a joints file."""
    if joints is None:
        return []
    return ["DATASET.DATASET", str(joints), "DATASET.DATASET_TEST", str(joints)]


def _check_record(path: Path, record: Record, structure: Structure | None, cfg: CfgNode) -> None:
    """ValueError if `cfg` has other joints than the network."""
    if record.config is not None:
        check_same_joints(record.config, path, cfg, is_train=False)
    elif structure is not None:
        _check_number_of_joints(path, structure, cfg)


def _check_number_of_joints(path: Path, structure: Structure, cfg: CfgNode) -> None:
    """ValueError if a bare state dict has other numbers of heatmaps than `cfg`."""
    wanted = cfg.MODEL.NUM_JOINTS
    try:
        count = split_channels(structure.channels, [wanted]).num_joints
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if count != wanted:
        spec = keypoints_of(cfg, is_train=False)
        raise ValueError(other_joints(path, f"{count} joints", spec, is_train=False))


def _check_kind(path: Path, structure: Structure | None, cfg: CfgNode) -> None:
    """ValueError if `cfg` is of another kind. A supernet without kernel maps reads as PLAIN."""
    if structure is None or structure.kind == cfg.MODEL.NAME:
        return
    if structure.kind != PLAIN or cfg.MODEL.NAME != SUPERNET:
        raise ValueError(f"{path} is a {structure.kind}, not a {cfg.MODEL.NAME} (MODEL.NAME)")


def _check_largest(path: Path, structure: Structure | None, cfg: CfgNode) -> None:
    """ValueError if `cfg` is of a supernet, but the state dict is that of a sub-network."""
    if cfg.MODEL.NAME != SUPERNET or structure is None or structure.arch is None:
        return
    largest = largest_arch(cfg.DATASET.INPUT_SIZE, cfg.MODEL.EXTRA.NUM_DECONV_FILTERS)
    if structure.kind == PLAIN and not same_network(structure.arch, largest):
        arch = _with_size(structure.arch, largest.img_size)
        raise ValueError(f"{path} ({arch.summary}) does not fit the supernet ({largest.summary})")


# --- architecture and input size ----------------------------------------------------------


def _structure_of(state: Mapping[str, Tensor], path: Path) -> Structure | None:
    """The structure of the tensors; None if it is unknown, since the settings may describe it."""
    try:
        return read_structure(state, path)
    except ValueError:
        return None


def _architecture(
    path: Path, record: Record, structure: Structure | None, superconfig: str | Path | None
) -> ArchSpec | None:
    """The architecture of `superconfig`, of the record, or of the tensors; None for HRNets."""
    of_tensors = structure.arch if structure else None
    if superconfig:
        requested = ArchSpec.from_json(superconfig)
        known = record.arch or (of_tensors and _with_size(of_tensors, requested.img_size))
        if known and not (known.img_size == requested.img_size and same_network(known, requested)):
            raise ValueError(
                f"{path} is of another architecture ({known.summary}) than {superconfig} "
                f"({requested.summary})"
            )
        return requested
    if record.arch or of_tensors is None:
        return record.arch
    return published(of_tensors) or of_tensors


def _with_size(arch: ArchSpec, size: int) -> ArchSpec:
    """`arch`, with img_size `size` if it had none."""
    return replace(arch, img_size=size) if arch.img_size == NO_SIZE else arch


def _input_size(
    record: Record, arch: ArchSpec | None, has_cfg: bool, has_superconfig: bool
) -> int | None:
    """Input size in pixels to override the settings with; None: use that of the settings.

    A run may have trained an architecture at another size than the img_size of its JSON, so its
    record comes first. For a sub-network the architecture comes first, since its record has the
    settings of the supernet.
    """
    of_arch = arch.img_size if arch and arch.img_size != NO_SIZE else None
    if record.config is None or record.is_subnet:
        return of_arch
    if not has_cfg or arch is None:
        return None
    if has_superconfig:
        return of_arch
    return typed(record.config.get("DATASET", {}), "INPUT_SIZE", int, "the config of the weights")
