"""The settings and the architecture that a file of weights, or the folder of its run, records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from lib.models.arch import ArchSpec
from lib.models.structure import Structure, same_network
from lib.utils.checkpoint import load_checkpoint
from lib.utils.reading import read_json
from lib.utils.recorded import OLD, config_of, provenance_of, typed
from lib.utils.run_card import RUN_CARD
from lib.utils.text import brief

CHECKPOINT = "checkpoint.pth.tar"
OF_A_RUN = ("model_best.pth.tar", "final_state0.pth.tar")  # state dicts that a training writes
MAX_CARD = 2**26  # bytes of a run card
AS_TRAINED = ("CODEC", "AE_TAG_DIMS")  # keys of MODEL that belong to the weights


class Record(NamedTuple):
    """What is stored in the file, or in the folder of its run."""

    config: dict[str, Any] | None = None  # settings as plain values
    arch: ArchSpec | None = None
    is_subnet: bool = False  # an extracted sub-network: `config` is that of its supernet
    supernet: str | None = None  # path of that supernet

    def trained_with(self, path: Path) -> dict[str, Any]:
        """The keys that belong to the weights, with their values; {} without settings."""
        if self.config is None:
            return {}
        node = self.config.get("MODEL", {})
        old = {key: OLD[f"MODEL.{key}"] for key in AS_TRAINED}
        return {
            f"MODEL.{key}": typed(node, key, type(value), path) or value
            for key, value in old.items()
        }


def check_trained_with(path: Path, trained_with: Mapping[str, Any], cfg: CfgNode) -> None:
    """ValueError if a key that belongs to the weights has another value in `cfg`."""
    for key, value in trained_with.items():
        node, name = key.split(".")
        if value != cfg[node][name]:
            text = brief(value).strip("'")
            raise ValueError(
                f"{path} was trained with {key} {text}, not {cfg[node][name]}; leave the key out, "
                "or set it to the same"
            )


def record_of(saved: Mapping[str, Any], path: Path) -> Record | None:
    """The record in a checkpoint or a sub-network; None for a bare state dict."""
    record = Record(
        config=config_of(saved, path) or None,
        arch=_read_arch(typed(saved, "arch", dict, path), path),
        is_subnet=bool(provenance_of(saved, path)),
        supernet=typed(provenance_of(saved, path), "supernet", str, path),
    )
    return record if record.config or record.arch else None


def record_of_run(path: Path, structure: Structure | None) -> Record | None:
    """The record of the checkpoint or run card in the folder, if the weights are of that run."""
    if path.name not in OF_A_RUN:
        return None
    for read in (_read_checkpoint, _read_card):
        try:
            record = read(path.parent)
        except (ValueError, KeyError, IndexError, TypeError):
            continue  # missing or damaged: the settings come from the tensors
        arch = structure.arch if structure else None
        if record and (not (record.arch and arch) or same_network(record.arch, arch)):
            return record
    return None


def _read_checkpoint(folder: Path) -> Record | None:
    return record_of(load_checkpoint(folder / CHECKPOINT), folder / CHECKPOINT)


def _read_card(folder: Path) -> Record:
    """The record of the last start in a run card."""
    start = read_json(folder / RUN_CARD, "run card", MAX_CARD)["starts"][-1]
    return Record(dict(start["config"]), _read_arch(start["architecture"], folder / RUN_CARD))


def _read_arch(tree: Any, source: Path) -> ArchSpec | None:
    if not tree:
        return None
    try:
        return ArchSpec.from_dict(tree)
    except ValueError as error:
        raise ValueError(f"the architecture in {source}: {error}") from None
