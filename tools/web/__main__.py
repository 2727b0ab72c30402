"""Write a web page that finds people in photos, videos or a camera's view, in the browser.

    python -m tools.web --out page
    python -m http.server -d page          # then open http://localhost:8000
    python -m tools.web --model checkpoint.pth.tar --size 512x448 --out page
    python -m tools.web --model exported/model.onnx --out page    # a network of tools.export

The folder is complete: it works on any web server, in any folder of it, without others. ONNX
Runtime comes from npm (`npm pack`), or from --runtime. Exit code 0; 2 for a user's mistake.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError

from lib.analysis.report import make_folders
from lib.core.inference import InferenceSettings
from lib.deploy.export import make_card, make_program, write_onnx
from lib.deploy.fold import fold_norms
from lib.deploy.graph import GRAPHS
from lib.models.load import NetworkFile, read_network
from lib.utils import cli
from lib.utils.files import check_outputs, write_file
from lib.utils.reading import hash_of
from lib.utils.shipped import DEFAULT
from tools.export.__main__ import fixed_size_opts, read_size
from tools.export.forms import read_card
from tools.web.runtime import SCRIPT, WASM, Runtime, find_runtime, read_runtime

PAGE = Path(__file__).with_name("page")
VERSION = 'VERSION = "development"'  # in sw.js, which keeps the files of one version
Opened = tuple[list[Path], Callable[[], tuple[bytes, dict[str, Any]]]]  # files; model and card
GENERATED = ("card.json", "model.onnx.gz", "ort.js", "ort.wasm.gz")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    weights = f"weights, or *.onnx of tools.export (default: {DEFAULT}, part of the project)"
    parser.add_argument("--model", type=Path, default=Path(DEFAULT), metavar="FILE", help=weights)
    parser.add_argument("--cfg", help="experiments/*/*/*.yaml; default: the settings in the file")
    parser.add_argument("--superconfig", help="mobile_configs/*.json; default: as in the file")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--size", metavar="WxH", help="fixed input size; default: any size")
    files = f"the folder dist of onnxruntime-web, with {SCRIPT} and {WASM}; default: npm gets it"
    parser.add_argument("--runtime", type=Path, metavar="FOLDER", help=files)
    parser.add_argument(
        "--graph",
        choices=["pixels", "candidates"],
        help="where missing joints are searched: all pixels (default), or peaks (faster)",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    weights, load = open_exported(args) if args.model.suffix == ".onnx" else open_weights(args)
    page = {path.name: path.read_bytes() for path in sorted(PAGE.iterdir())}
    outputs = [args.out / name for name in (*page, *GENERATED)]
    runtime_files = [args.runtime / name for name in (SCRIPT, WASM)] if args.runtime else []
    check_outputs(outputs, [*weights, args.cfg, args.superconfig, *runtime_files])
    make_folders(*map(str, outputs))
    runtime = read_runtime(args.runtime) if args.runtime else find_runtime()

    model, card = load()
    files = page | pack(model, card, runtime)
    files["sw.js"] = with_version(files)
    for name, content in files.items():
        write_file(args.out / name, content)
    print(f"{args.out}: {len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB to load")
    print(f"python -m http.server -d {args.out}   # then open http://localhost:8000")
    return 0


def open_weights(args: argparse.Namespace) -> Opened:
    """A file of weights, to be exported without the flip test."""
    size = read_size(args.size) if args.size else None
    opts = [*fixed_size_opts(args.size), *args.opts, "TEST.FLIP_TEST", "False"]
    network = read_network(args.model, cfg=args.cfg, superconfig=args.superconfig, opts=opts)
    network.expect_subnet()
    return [network.source], partial(export, network, args.graph or "pixels", size)


def open_exported(args: argparse.Namespace) -> Opened:
    """A network of tools.export; ValueError where the page cannot show it."""
    path, card_path = args.model, args.model.with_name("card.json")
    if args.cfg or args.superconfig or args.size or args.graph or args.opts:
        raise ValueError(f"{path} was exported with its settings; they cannot be changed")
    card = read_card(card_path)
    if "values" not in card["outputs"]:
        raise ValueError(f"{path} returns maps, not candidates: export it with another --graph")
    try:
        content = path.read_bytes()
        nodes = onnx.load_from_string(content).graph.node
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except DecodeError:
        raise ValueError(f"{path} is not an ONNX model") from None
    if any(node.op_type == "QuantizeLinear" for node in nodes):
        raise ValueError(
            f"{path} is in 8 bits, which browsers compute slower than floats, and with other "
            "people than the runner: take model.onnx"
        )
    weights = PurePath(card["provenance"].get("weights", path)).name  # the path stays behind
    provenance = provenance_of(path) | {"weights": weights}
    return [path, card_path], lambda: (content, card | {"provenance": provenance})


def export(
    network: NetworkFile, graph_name: str, size: tuple[int, int] | None
) -> tuple[bytes, dict[str, Any]]:
    """The network as an ONNX model, and its card without paths of this machine."""
    settings = InferenceSettings.from_config(network.cfg)
    model = network.build(torch.device("cpu"))
    graph = GRAPHS[graph_name](settings, fold_norms(model)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(path, make_program(graph, size), graph.outputs)
        content = path.read_bytes()
    return content, make_card(settings, graph, size, provenance_of(network.source))


def provenance_of(path: Path) -> dict[str, str]:
    """The name and the hash of the file that the network comes from."""
    return {"weights": path.name, "sha256": hash_of(path)}


def pack(model: bytes, card: Mapping[str, Any], runtime: Runtime) -> dict[str, bytes]:
    """The files that depend on the network and on ONNX Runtime; the large ones are compressed."""
    packed = {
        name: gzip.compress(content, mtime=0)
        for name, content in (("model.onnx.gz", model), ("ort.wasm.gz", runtime.wasm))
    }
    sizes = {
        "model": {"bytes": len(model), "loaded": len(packed["model.onnx.gz"])},
        "runtime": {
            "version": runtime.version,
            "bytes": len(runtime.script) + len(runtime.wasm),
            "loaded": len(runtime.script) + len(packed["ort.wasm.gz"]),
        },
    }
    text = json.dumps({**card, "web": sizes}, indent=2) + "\n"
    return {**packed, "ort.js": runtime.script, "card.json": text.encode()}


def with_version(files: Mapping[str, bytes]) -> bytes:
    """sw.js with a hash of all files, so that a browser replaces those of another version."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(hashlib.sha256(files[name]).digest())
    script = files["sw.js"].decode()
    assert VERSION in script
    return script.replace(VERSION, f'VERSION = "{digest.hexdigest()[:16]}"').encode()


if __name__ == "__main__":
    cli.run(main)
