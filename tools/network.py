"""What finds people, from the file it is in: a checkpoint, a cut, or an exported network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from lib.config import load_config, read_config
from lib.core.inference import InferenceSettings, find_people, network_maps, prepare
from lib.keypoints import KEYPOINTS, KeypointSpec, keypoints_of
from lib.models.arch import ArchSpec
from lib.utils.checkpoint import load_checkpoint
from lib.utils.dist import choose_device
from tools import device_runner
from valid import load_model

Found = tuple[np.ndarray, Sequence[float]]  # people (N, K, 3 or more) and their N scores


class Network(NamedTuple):
    """Image -> people, in three steps, each of which may run in a thread of its own."""

    spec: KeypointSpec
    prepare: Callable[[np.ndarray], Any]  # of a picture (H, W, 3) uint8 RGB
    compute: Callable[[Any], Any]  # of what `prepare` gave
    group: Callable[[Any], Found]  # of what `compute` gave


def add_settings_flags(parser: argparse.ArgumentParser) -> None:
    """What is said of a network beside the file it is in; of `settings_of` and `open_network`."""
    parser.add_argument("--cfg", help="experiments/*.yaml, for a model that does not carry its own")
    parser.add_argument("--superconfig", help="mobile_configs/*.json, likewise")
    parser.add_argument("--gpu", type=int, help="CUDA device; the CPU is used where there is none")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")


def open_network(
    path: Path,
    cfg_path: str | None = None,
    superconfig: str | None = None,
    opts: Sequence[str] = (),
    gpu: int | None = None,
) -> Network:
    """The network in `path`; bare weights need `cfg_path`, and `superconfig` where there is one.

    ValueError when the file cannot be read, or what is said of it does not fit.
    """
    if path.suffix == ".onnx":
        if cfg_path or superconfig or opts:
            raise ValueError(f"{path} was exported with its settings; there are no others to give")
        return open_exported(path)
    cfg, arch = settings_of(path, cfg_path, superconfig, opts)
    try:
        model = load_model(cfg, arch, path, choose_device(cfg, gpu))
    except ValueError as error:
        if "does not fit" not in str(error):
            raise
        raise ValueError(f"{error}; it is of other --cfg, --superconfig or keys") from None
    return network_of(cfg, model)


def network_of(cfg: CfgNode, model: nn.Module) -> Network:
    """The steps of `lib.core.inference.predict`."""
    device = next(model.parameters()).device
    settings = InferenceSettings.from_config(cfg)

    def compute(given: Any) -> Any:
        maps = network_maps(settings, model, [given])
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what it takes is the network's, not the next step's
        return *maps, given

    def group(maps: Any) -> Found:
        people, scores = find_people(settings, *maps)
        if not (np.isfinite(people[..., :3]).all() and np.isfinite(scores).all()):
            raise ValueError("the network's maps are not finite")
        return people, scores

    return Network(spec_of(cfg), lambda picture: prepare(settings, picture), compute, group)


def open_exported(path: Path) -> Network:
    """What tools/export wrote, as tools/device_runner.py runs it: in one step, on the CPU."""
    if not path.is_file():
        raise ValueError(f"there is no exported network {path}")
    try:
        session, card = device_runner.open_model(path)
        spec = spec_of_card(card, f"the card beside {path}")
    except OSError as error:
        raise ValueError(f"cannot read the card beside {path}: {error.strerror}") from None
    except (KeyError, TypeError, IndexError, json.JSONDecodeError):
        raise ValueError(f"the card beside {path} is not of an exported network") from None
    except ValueError:
        raise
    except Exception as error:  # onnxruntime's own have nothing else in common
        raise ValueError(f"{path} cannot be run: {str(error).splitlines()[0]}") from None
    find = partial(device_runner.find_people, session, card)
    return Network(spec, lambda picture: picture, find, lambda found: found)


def spec_of(cfg: CfgNode) -> KeypointSpec:
    """The joints that a network of `cfg` finds."""
    return keypoints_of(cfg, is_train=False)


def spec_of_card(card: Mapping[str, Any], source: str) -> KeypointSpec:
    """The joints that an exported network finds; `source` is where its card is."""
    names = card["joints"]
    for known in KEYPOINTS.values():
        if list(known.joints) == names:
            return known
    pairs = [[names[a], names[b]] for a, b in enumerate(card["flip_index"]) if a < b]
    said = {
        **{"name": card["data_set"], "joints": names, "flips": pairs, "sigmas": card["sigmas"]},
        "limbs": [[names[a], names[b]] for a, b in card["limbs"]],
    }
    return KeypointSpec.from_dict(said, source)


def settings_of(
    path: Path, cfg_path: str | None, superconfig: str | None, opts: Sequence[str]
) -> tuple[CfgNode, ArchSpec | None]:
    """The config and the architecture of the weights in `path`: as given, else as the file says."""
    saved = load_checkpoint(path)
    origin = saved.get("provenance")  # of a cut: its settings are the supernet's
    said = (origin or saved).get("config")
    arch = ArchSpec.from_dict(saved["arch"]) if saved.get("arch") else None
    if superconfig:
        given = ArchSpec.from_json(superconfig)
        if arch and given != arch:
            raise ValueError(f"{path} is of another architecture than {superconfig}")
        arch = given
    opts = ["MODEL.NAME", "pose_mobilenet", *opts] if origin else opts
    if not (cfg_path or isinstance(said, str)):
        raise ValueError(
            f"{path} holds weights alone; name what they are of: --cfg and --superconfig"
        )
    img_size, cfg, own = arch.img_size if arch else None, None, None
    if isinstance(said, str):
        # A run may have trained its architecture at another size; a cut has that of its own.
        own_size = img_size if origin else None
        cfg = own = read_config(said, f"the config in {path}", opts, own_size)
    if cfg_path:
        cfg = load_config(cfg_path, opts, img_size)
    if own and spec_of(own).joints != spec_of(cfg).joints:
        raise ValueError(
            f"{path} finds the joints of {spec_of(own).name}, {cfg_path} is of {spec_of(cfg).name}"
        )
    if cfg.MODEL.NAME == "pose_supermobilenet":
        raise ValueError(f"{path} is a supernet; cut a network out of it with weight_transfer.py")
    return cfg, arch
