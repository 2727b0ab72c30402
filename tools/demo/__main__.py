"""Find people in images, videos, streams or a camera's view, and draw their skeletons.

    python -m tools.demo --input street.jpg holiday/ 'more/*.png'
    python -m tools.demo --model checkpoint.pth.tar --input clip.mp4 --track
    python -m tools.demo --model checkpoint.pth.tar --input 0 --show TEST.FLIP_TEST False
    python -m tools.demo --input rtsp://camera.local/live --track
    python -m tools.demo --model exported/model.onnx --input clip.mp4

Exit code 0; 1 when some images or videos could not be read (they are named and skipped) or a stream
is lost; 2 for a user's mistake. Ctrl-C (exit code 130) and SIGTERM end it; all files are complete
then.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
from tqdm import tqdm

from lib.config import is_key
from lib.predictor import Predictor, Runtime
from lib.utils import cli
from lib.utils.shipped import DEFAULT
from tools.demo.media import Source, find_sources, quiet_opencv
from tools.demo.output import Output
from tools.demo.pipeline import PARTS, Item, Mean, Problem, Times, drawings, time_table
from tools.demo.video import frame_count

logger = logging.getLogger("lib.demo")

TITLE = "LitePose (q: quit)"
ESCAPE = 27


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    weights = f"a file of weights, or *.onnx (default: {DEFAULT}, which comes with the project)"
    parser.add_argument("--model", type=Path, default=Path(DEFAULT), help=weights)
    inputs = "images, videos, folders, patterns, URLs of streams, or the number of a camera"
    parser.add_argument("--input", required=True, nargs="+", metavar="INPUT", help=inputs)
    parser.add_argument("--out", type=Path, default=Path("output/demo"), metavar="FOLDER")
    parser.add_argument("--track", action="store_true", help="assign ids, smooth joints (videos)")
    parser.add_argument("--min-score", type=float, default=0.2, help="of people (default: 0.2)")
    parser.add_argument("--show", action="store_true", help="also show in a window")
    cli.add_runtime_flag(parser)
    cli.add_network_flags(parser)
    args = parser.parse_intermixed_args(argv)
    words = enumerate(args.input)
    keys = [i for i, word in words if i and is_key(word) and not Path(word).exists()]
    if keys:  # --input takes all words that follow
        args.input, args.opts = args.input[: keys[0]], [*args.input[keys[0] :], *args.opts]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    cli.check_range("--min-score", args.min_score, low=0, high=1)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    quiet_opencv()
    sources = find_sources(args.input)
    if args.track and not any(source.is_video for source in sources):
        raise ValueError("--track is for videos and cameras; the input has none")
    if args.show:
        open_window()
    predictor = Predictor.load(
        args.model,
        cfg=args.cfg,
        superconfig=args.superconfig,
        opts=args.opts,
        device=args.gpu,
        runtime=Runtime(args.runtime, callers=2),
    )
    return process(predictor, sources, args.out, args.track, args.min_score, args.show)


def process(
    predictor: Predictor,
    sources: Sequence[Source],
    out: Path,
    track: bool = False,
    min_score: float = 0.2,
    show: bool = False,
) -> int:
    """Find, draw and write the people of all `sources`, print the times; return the exit code.

    A KeyboardInterrupt is raised again once all files are complete and the times are printed.
    """
    times: Times = {part: Mean() for part in PARTS}
    problems, interrupted = [], False
    started = time.perf_counter()
    with (
        contextlib.closing(Output(out, predictor.keypoints, sources)) as output,
        contextlib.closing(drawings(predictor, sources, times, track, min_score)) as items,
    ):
        try:
            for item in progress(items, sources):
                if isinstance(item, Problem):
                    problems.append(item.message)
                    if len(sources) > 1 or output.images:
                        logger.warning("%s", item.message)
                    continue
                begin = time.perf_counter()
                output.write(item.frame, *item.result)
                times["write"].add(time.perf_counter() - begin)
                if show and show_and_ask(item):
                    break
        except KeyboardInterrupt:
            interrupted = True
    if problems and not output.images:
        none = f"none of {len(sources)} images and videos could be read"
        raise ValueError(none if len(sources) > 1 else problems[0])
    print(f"{output.people} people in {output.images} images: {out}")
    if output.images:
        print(time_table(times, (time.perf_counter() - started) / output.images))
    if interrupted:
        raise KeyboardInterrupt
    return 1 if problems else 0


def progress(
    items: Iterator[Item | Problem], sources: Sequence[Source]
) -> Iterator[Item | Problem]:
    """The same items, under a progress bar in a terminal."""
    counts = [frame_count(source) for source in sources]
    total = None if None in counts else sum(count or 0 for count in counts)
    return iter(tqdm(items, total=total, unit="image", disable=None))


def open_window() -> None:
    """ValueError where there is no display, or OpenCV has no windows."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise ValueError("--show: there is no display")
    try:
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    except cv2.error:
        raise ValueError(
            "--show: this OpenCV has no windows; opencv-python in place of -headless has"
        ) from None


def show_and_ask(item: Item) -> bool:
    """Show the drawing, an image until a key is pressed; return whether to quit."""
    cv2.imshow(TITLE, item.result.image[..., ::-1])
    return cv2.waitKey(1 if item.frame.source.is_video else 0) in (ord("q"), ESCAPE)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cli.run(main)
