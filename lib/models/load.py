"""The network in a file of weights: its settings, its architecture and its tensors.

    network = read_network("checkpoint.pth.tar")
    model = network.build(torch.device("cpu"))

The file may be a checkpoint of a training, a sub-network of weight_transfer.py (both carry their
settings), `model_best.pth.tar` or `final_state0.pth.tar` (a state dict next to the checkpoint or
the run card of its training), or published weights: a state dict alone, whose tensors say what
network it is (`lib.models.structure`). Every script and tool reads weights by this function.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.config import load_config, read_config
from lib.config.files import parse_yaml
from lib.keypoints import KeypointSpec, keypoints_of
from lib.models import build_model, place
from lib.models.arch import ArchSpec, largest_arch
from lib.models.bare_weights import published, settings_of_tensors
from lib.models.structure import NO_SIZE, Structure, read_structure, same_network
from lib.utils.checkpoint import (
    check_same_joints,
    fit_weights,
    load_checkpoint,
    weights_of,
)
from lib.utils.run_card import RUN_CARD

PLAIN, SUPERNET = "pose_mobilenet", "pose_supermobilenet"
CHECKPOINT = "checkpoint.pth.tar"
OF_A_RUN = ("model_best.pth.tar", "final_state0.pth.tar")  # state dicts that a training leaves


@dataclass(frozen=True)
class NetworkFile:
    """A network as a file of weights describes it."""

    source: Path
    cfg: CfgNode
    arch: ArchSpec | None  # None: MODEL.EXTRA of `cfg` describes the network
    state: Mapping[str, Tensor]
    epoch: int | None = None  # of the training that saved it
    supernet: str | None = None  # the file that a sub-network was extracted from
    recorded: Mapping[str, Any] = field(default_factory=dict)  # the settings in the file, if any

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
        """Pixels, of the side of an input that TEST.SCALE_TYPE names."""
        return self.cfg.DATASET.INPUT_SIZE

    def build(self, device: torch.device) -> nn.Module:
        """The trained network in evaluation mode; ValueError when the tensors do not fit it."""
        model = build_model(self.cfg, self.arch)
        try:
            fit_weights(model, self.state, self.source)
        except ValueError as error:
            raise ValueError(f"{error}; it is of other --cfg, --superconfig or keys") from None
        return place(model, device, self.cfg.MODEL.CHANNELS_LAST).eval()

    def expect_subnet(self) -> NetworkFile:
        """The same; ValueError for a supernet, which stands for no single network."""
        if self.kind == SUPERNET:
            raise ValueError(
                f"{self.source} is a supernet; extract a sub-network with weight_transfer.py"
            )
        return self

    def expect_supernet(self) -> NetworkFile:
        """The same; ValueError for any other network."""
        if self.kind != SUPERNET:
            raise ValueError(
                f"{self.source} is a {self.kind}; only a {SUPERNET} has sub-networks to extract"
            )
        return self


class Record(NamedTuple):
    """Settings and architecture that are stored with the tensors, or in the folder of the run."""

    config: dict[str, Any] | None = None  # settings as plain values
    arch: ArchSpec | None = None
    is_subnet: bool = False  # `config` is the supernet's


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
    """The network in `path`.

    cfg: an experiments/*.yaml, in place of the settings in the file. superconfig: a
    mobile_configs/*.json. opts: keys and values in turn, which win over all other settings.
    input_size, joints ("coco", "crowd_pose", or a *.yaml file of joints): for what a state dict
    does not say. like: the settings of another network, used for what nothing else says.

    ValueError, in one line, when the file cannot be read, when something is still missing (it names
    the argument), or when the settings contradict the file.
    """
    path = Path(path)
    saved = load_checkpoint(path)
    state = weights_of(saved, path)
    structure = _structure_of(state, path)
    record = _record_of(saved, path) or _record_of_run(path, structure) or Record()
    arch = _architecture(path, record, structure, superconfig)
    size = input_size or _input_size(record, arch, bool(cfg), bool(superconfig))
    opts = [*_joint_keys(joints), *opts]
    if record.is_subnet:
        opts = ["MODEL.NAME", PLAIN, *opts]
    if cfg:
        settings = load_config(cfg, opts, size)
    elif record.config is not None:
        settings = read_config(yaml.safe_dump(record.config), f"the config in {path}", opts, size)
    else:
        structure = read_structure(state, path)
        settings = settings_of_tensors(structure, path, opts, size, like)
    _check_record(path, record, settings)
    _check_kind(path, structure, settings)
    arch = arch and _with_size(arch, settings.DATASET.INPUT_SIZE)
    if not (record.arch or superconfig):
        _check_largest(path, structure, settings)
    return NetworkFile(
        source=path,
        cfg=settings,
        arch=arch,
        state=state,
        epoch=saved.get("epoch"),
        supernet=(saved.get("provenance") or {}).get("supernet"),
        recorded=record.config or {},
    )


def _joint_keys(joints: str | Path | None) -> list[str]:
    """Keys of the config for a data set's name or a file of joints."""
    if joints is None:
        return []
    return ["DATASET.DATASET", str(joints), "DATASET.DATASET_TEST", str(joints)]


# --- what is written in the file or next to it --------------------------------------------


def _record_of(saved: Mapping[str, Any], path: Path) -> Record | None:
    """From the content of a checkpoint or a sub-network; None for a bare state dict."""
    provenance = saved.get("provenance")  # of a sub-network
    text = (provenance if isinstance(provenance, Mapping) else saved).get("config")
    config = parse_yaml(text, f"the config in {path}") if isinstance(text, str) else None
    arch = _read_arch(saved.get("arch"), path)
    return Record(config, arch, is_subnet=bool(provenance)) if config or arch else None


def _record_of_run(path: Path, structure: Structure | None) -> Record | None:
    """From the checkpoint or the run card next to the weights, if these are of that run."""
    if path.name not in OF_A_RUN:
        return None
    for read in (_read_checkpoint, _read_card):
        try:
            record = read(path.parent)
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            continue  # missing or damaged: the tensors must do
        arch = structure.arch if structure else None
        if record and (not (record.arch and arch) or same_network(record.arch, arch)):
            return record
    return None


def _read_checkpoint(folder: Path) -> Record | None:
    return _record_of(load_checkpoint(folder / CHECKPOINT), folder / CHECKPOINT)


def _read_card(folder: Path) -> Record:
    """From the last start of a run."""
    start = json.loads((folder / RUN_CARD).read_text())["starts"][-1]
    return Record(dict(start["config"]), _read_arch(start["architecture"], folder / RUN_CARD))


def _read_arch(tree: Any, source: Path) -> ArchSpec | None:
    if not tree:
        return None
    try:
        return ArchSpec.from_dict(tree)
    except ValueError as error:
        raise ValueError(f"the architecture in {source}: {error}") from None


def _check_record(path: Path, record: Record, cfg: CfgNode) -> None:
    """ValueError when `cfg` has other joints or another codec than the network was trained for."""
    if record.config is None:
        return
    check_same_joints(record.config, path, cfg, is_train=False)
    trained_with = record.config.get("MODEL", {}).get("CODEC", "reference")
    if trained_with != cfg.MODEL.CODEC:
        raise ValueError(
            f"{path} was trained with MODEL.CODEC {trained_with}, not {cfg.MODEL.CODEC}; "
            f"give the same to decode it"
        )


def _check_kind(path: Path, structure: Structure | None, cfg: CfgNode) -> None:
    """ValueError when `cfg` is of another kind; without kernel maps a supernet looks plain."""
    if structure is None or structure.kind == cfg.MODEL.NAME:
        return
    if structure.kind != PLAIN or cfg.MODEL.NAME != SUPERNET:
        raise ValueError(f"{path} is a {structure.kind}, not a {cfg.MODEL.NAME} (MODEL.NAME)")


def _check_largest(path: Path, structure: Structure | None, cfg: CfgNode) -> None:
    """ValueError for the state dict of a sub-network that `cfg` calls a supernet."""
    if cfg.MODEL.NAME != SUPERNET or structure is None or structure.arch is None:
        return
    largest = largest_arch(cfg.DATASET.INPUT_SIZE, cfg.MODEL.EXTRA.NUM_DECONV_FILTERS)
    if structure.kind == PLAIN and not same_network(structure.arch, largest):
        arch = _with_size(structure.arch, largest.img_size)
        raise ValueError(f"{path} ({arch.summary}) does not fit the supernet ({largest.summary})")


# --- architecture and input size ----------------------------------------------------------


def _structure_of(state: Mapping[str, Tensor], path: Path) -> Structure | None:
    """None where the tensors are of a network that is not known, but may be described."""
    try:
        return read_structure(state, path)
    except ValueError:
        return None


def _architecture(
    path: Path, record: Record, structure: Structure | None, superconfig: str | Path | None
) -> ArchSpec | None:
    """Of `superconfig`, as recorded, or read from the tensors; None for HRNets: they have none."""
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
    """The same with an input size, if it has none."""
    return replace(arch, img_size=size) if arch.img_size == NO_SIZE else arch


def _input_size(
    record: Record, arch: ArchSpec | None, has_cfg: bool, has_superconfig: bool
) -> int | None:
    """Pixels; None where the settings have it.

    A run may have trained its architecture at another size than the JSON's. A sub-network has the
    size of its architecture: the settings next to it are the supernet's.
    """
    of_arch = arch.img_size if arch and arch.img_size != NO_SIZE else None
    if record.config is None or record.is_subnet:
        return of_arch
    if not has_cfg or arch is None:
        return None
    return of_arch if has_superconfig else record.config.get("DATASET", {}).get("INPUT_SIZE")
