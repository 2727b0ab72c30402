"""Evaluate a network: AP on COCO or CrowdPose, or a result file for COCO test-dev.

    python valid.py --cfg experiments/coco/mobilenet/mobile.yaml --model weights.pth.tar
    python valid.py --cfg ... --model ... --vis 16         # also an image of the 16 worst results
    python valid.py --cfg ... --model ... --report output/report   # also a page with all metrics
    python valid.py --cfg ... --model ... --diagnose       # also errors by type
    python valid.py --cfg ... --model ... --runtime openvino   # on a CPU, faster
    python valid.py --cfg ... --model exported/model-int8.onnx   # an exported network
    python valid.py --cfg ... --oracle                     # ground-truth maps: AP of the decoder
    python valid.py --cfg ... --model ... --oracle tags    # ground-truth tags, predicted heatmaps
    python valid.py --cfg ... --model ... --joints shared  # joints that network and data set share
    torchrun --nproc_per_node=8 valid.py --cfg ...         # 8 processes share the images

Without --model, the weights are TEST.MODEL_FILE or those of the training run with the same --cfg.
The architecture is read from the weights; if --superconfig is passed, it must agree. An exported
network keeps the settings it was exported with; --cfg names the data set. The same command resumes
an interrupted evaluation. Exit codes: 0; 1 if images failed (they are listed and left out); 2 for a
user's mistake.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from lib.analysis.diagnose import diagnose, diagnosis_table
from lib.analysis.oracle import MODES
from lib.analysis.ranking import rank
from lib.analysis.report import Report, make_folders, make_page_folder, write_csv, write_json
from lib.analysis.sheet import contact_sheet
from lib.config import load_config
from lib.core.evaluate import evaluate_predictions, markdown_table
from lib.core.predictions import PredictionJournals
from lib.core.results import Prediction, require_some, result_path, result_rows
from lib.dataset.build import EvaluationSet, build_evaluation_set
from lib.evaluation import Subject, exported_subject, subject_of
from lib.keypoints import KeypointSpec
from lib.models.arch import ArchSpec
from lib.models.load import NetworkFile, joint_opts, read_network
from lib.predictor import EXPORTED, PYTORCH
from lib.utils import cli
from lib.utils.dist import Process, agree, barrier, leave, start_process
from lib.utils.files import check_outputs
from lib.utils.logger import create_logger
from lib.utils.vis import save_image

logger = logging.getLogger("lib.valid")

MODEL_FILES = ("model_best.pth.tar", "final_state0.pth.tar", "checkpoint.pth.tar")
NEUTRAL_KEYS = ("MODEL_FILE", "IMAGES_PER_GPU", "LOG_PROGRESS")  # of TEST; not in `identity`
IN_CARD = ("MODEL.", "TEST.", "DATASET.INPUT_SIZE")  # settings that exported networks keep


def parse_args() -> Namespace:
    parser = cli.parser(__doc__)
    cli.add_process_flags(parser)
    parser.add_argument("--model", metavar="PATH", help="weights; the same as TEST.MODEL_FILE")
    parser.add_argument("--json", metavar="PATH", help="write the AP table, weights, split, ...")
    parser.add_argument("--csv", metavar="PATH", help="write the same as one row")
    parser.add_argument(
        "--vis", type=int, default=0, metavar="N", help="draw people on the N worst images"
    )
    parser.add_argument("--report", metavar="DIR", help="write the page DIR/index.html")
    parser.add_argument(
        "--oracle",
        choices=MODES,
        help="ground-truth maps in place of the network's: both (default), heatmaps or tags",
    )
    parser.add_argument(
        "--diagnose", action="store_true", help="print a table of error types by joint"
    )
    parser.add_argument(
        "--joints",
        choices=["all", "shared"],
        default="all",
        help="shared: a network of other joints is scored over those that the data set has, too",
    )
    cli.add_runtime_flag(parser)
    args = parser.parse_intermixed_args(_with_mode(sys.argv[1:]))
    if args.model:
        args.opts += ["TEST.MODEL_FILE", args.model]
    return args


def _with_mode(argv: Sequence[str]) -> list[str]:
    """A bare `--oracle`, also before KEY VALUE, means `--oracle=both`."""
    return [
        "--oracle=both" if word == "--oracle" and following not in MODES else word
        for word, following in zip(argv, [*argv[1:], ""], strict=True)
    ]


def main() -> int:
    args = parse_args()
    arch = ArchSpec.from_json(args.superconfig) if args.superconfig else None
    cfg = load_config(args.cfg, args.opts, img_size=arch.img_size if arch else None)
    process = start_process(cfg, args)
    output_dir, _ = create_logger(cfg, args.cfg, "valid", process.is_main)
    data = build_evaluation_set(cfg)
    check_flags(args, data)
    inputs = [data.annotations, cfg.TEST.MODEL_FILE, args.cfg, args.superconfig]
    check_outputs([args.json, args.csv], inputs)
    make_folders(args.json, args.csv)
    make_page_folder(args.report)
    subject = find_subject(args, cfg, data, output_dir, process)
    if args.oracle == "both":
        subject = subject._replace(arch=arch)  # for the report alone
    header = identity(subject.cfg, subject.sha256, subject.arch, args.oracle)
    header |= {"joints": list(subject.data.spec.joints), "runtime": args.runtime or PYTORCH}
    header["others"] = list(subject.others)
    journals = PredictionJournals(result_path(data, output_dir), header, process)
    predictions, problems = subject.predict(subject.data, process, journals)
    code = agree(process, lambda: report(args, subject, output_dir, predictions, problems))
    if code != cli.MISTAKE:
        journals.remove()
    barrier(process)  # all remove their files before the launcher ends them because one failed
    leave(process)
    return code


def check_flags(args: Namespace, data: EvaluationSet) -> None:
    """ValueError for flags that contradict each other, or need ground truth that is not public."""
    if args.diagnose and not data.has_people:
        raise ValueError(f"--diagnose: nobody is labelled in {data.annotations}")
    if args.joints == "shared" and not data.has_people:
        raise ValueError(f"--joints shared: nobody is labelled in {data.annotations}")
    if args.runtime and args.oracle == "both":
        raise ValueError("--runtime and --oracle: ground-truth maps are not computed by a network")
    if args.joints == "shared" and args.oracle:
        raise ValueError(
            "--joints shared and --oracle: ground-truth maps have the joints of the data set; "
            "drop one of the two"
        )


def find_subject(
    args: Namespace, cfg: CfgNode, data: EvaluationSet, output_dir: Path, process: Process
) -> Subject:
    """What --model, --oracle, --runtime and --joints say; ValueError where it is impossible."""
    path, share = Path(cfg.TEST.MODEL_FILE), args.joints == "shared"
    if path.suffix not in EXPORTED:
        network = None if args.oracle == "both" else find_network(args, cfg, output_dir)
        return subject_of(cfg, network, data, process.device, args.runtime, args.oracle, share)
    fixed = [f"--{name}" for name in ("superconfig", "oracle") if getattr(args, name)]
    neutral = [f"TEST.{name}" for name in NEUTRAL_KEYS]
    fixed += [key for key in args.opts[::2] if key.startswith(IN_CARD) and key not in neutral]
    if fixed:
        raise ValueError(f"{path} was exported with its settings; {fixed[0]} cannot change them")
    progress = cfg.VERBOSE and process.is_main
    return exported_subject(cfg, path, data, args.runtime, share, progress)


def find_network(args: Namespace, cfg: CfgNode, output_dir: Path) -> NetworkFile:
    """The network in TEST.MODEL_FILE; if that is "", in the first of MODEL_FILES that exists."""
    path = Path(cfg.TEST.MODEL_FILE)
    if not cfg.TEST.MODEL_FILE:
        paths = [output_dir / name for name in MODEL_FILES if (output_dir / name).exists()]
        if not paths:
            raise ValueError(f"no weights in {output_dir}; train first, or set TEST.MODEL_FILE")
        path = paths[0]
    opts = args.opts
    if args.joints == "shared":
        opts = [*opts, *joint_opts(read_network(path, superconfig=args.superconfig, like=cfg))]
    return read_network(path, cfg=args.cfg, superconfig=args.superconfig, opts=opts)


def identity(
    cfg: CfgNode, sha256: str, arch: ArchSpec | None = None, oracle: str | None = None
) -> dict[str, Any]:
    """Everything that predictions depend on; journals with another identity are not resumed."""
    test = {name: value for name, value in cfg.TEST.items() if name not in NEUTRAL_KEYS}
    return {
        "weights": sha256,
        "arch": arch.to_dict() if arch else {},
        "oracle": oracle,
        "config": {"DATASET": cfg.DATASET, "MODEL": cfg.MODEL, "TEST": test, "FP16": cfg.FP16},
    }


def name_of(args: Namespace, spec: KeypointSpec) -> str:
    """First column of the AP table: the stem of --superconfig or --cfg, or the oracle."""
    name = Path(args.superconfig or args.cfg).stem
    if args.joints == "shared":
        return f"{name}, {spec.num_joints} shared joints"
    if args.oracle:
        return "oracle" if args.oracle == "both" else f"{name}, ground-truth {args.oracle}"
    return name


def report(
    args: Namespace,
    subject: Subject,
    output_dir: Path,
    predictions: list[Prediction],
    problems: list[str],
) -> int:
    """Write the results, score them, and write the requested reports; the exit code."""
    data = subject.data
    require_some(predictions, problems)
    table = evaluate_predictions(data, predictions, output_dir)
    if table:
        print(markdown_table(table, name_of(args, data.spec)), flush=True)
    else:
        path = result_path(data, output_dir)
        logger.info("submit %s to the server that scores %s", path, data.split)
    result = Report(
        arch=name_of(args, data.spec),
        weights=subject.weights,
        sha256=subject.sha256,
        split=data.split,
        joints=list(data.spec.joints),
        pictures=len(data.records),
        problems=problems,
        table=table,
    )
    write_reports(args, subject, output_dir, predictions, result)
    for problem in problems:
        logger.warning("%s", problem)
    if problems:
        logger.warning("%d of %d images were left out", len(problems), len(data.records))
    return 1 if problems else 0


def write_reports(
    args: Namespace,
    subject: Subject,
    output_dir: Path,
    predictions: list[Prediction],
    result: Report,
) -> None:
    """Write the outputs of --json, --csv, --diagnose, --vis and --report."""
    data = subject.data
    if args.json:
        write_json(args.json, result)
    if args.csv:
        write_csv(args.csv, result)
    if args.diagnose:
        diagnosis = diagnose(data.spec, data.ground_truth, result_rows(data.spec, predictions))
        print(f"\n{diagnosis_table(data.spec, diagnosis)}", flush=True)
    if args.vis:
        path = output_dir / f"{data.split}_people.png"
        ranking = rank(data, predictions) if data.has_people else []
        save_image(path, contact_sheet(data, predictions, args.vis, ranking))
        logger.info("predictions of the worst images: %s", path)
    if args.report:
        from lib.analysis.page import write_page  # here: matplotlib takes long to import

        arch, cfg = subject.arch, subject.cfg
        network = arch.summary if arch else cfg.MODEL.NAME
        page = write_page(Path(args.report), data, predictions, result, network, cfg.dump())
        logger.info("the report: %s", page)


if __name__ == "__main__":
    cli.run(main)
