"""Find people in pictures, videos or before a camera, and draw them.

    python -m tools.demo --model checkpoint.pth.tar --input street.jpg holiday/ 'more/*.png'
    python -m tools.demo --model checkpoint.pth.tar --input clip.mp4 --track
    python -m tools.demo --model checkpoint.pth.tar --input 0 --show TEST.FLIP_TEST False
    python -m tools.demo --model model_best.pth.tar --cfg ... --superconfig ... --input clip.mp4

Exit code 0; 1 when something could not be read, is named and was left out; 2 for a user's mistake.
Ctrl-C ends it (130), and so does SIGTERM; what is written by then is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from lib.core.pipeline import IMAGE_ERRORS
from lib.keypoints import KeypointSpec
from lib.utils import cli
from lib.utils.vis import draw_people
from tools.demo.ahead import Clock, ahead
from tools.demo.media import Frame, Source, find_sources, frame_count, read_source
from tools.demo.output import Output, People
from tools.demo.track import Tracker
from tools.network import Network, add_settings_flags, open_network

logger = logging.getLogger("lib.demo")

MIN_JOINT = 0.1  # a joint with less is not drawn
PARTS = ("read", "network", "group", "draw", "write")
TITLE = "LitePose (q: quit)"
ESCAPE = 27


class Shot(NamedTuple):
    """A frame on its way."""

    frame: Frame
    made: Any = None  # by the last step: the network's input, maps, people, a drawing


class Problem(NamedTuple):
    """What has none of it."""

    line: str


class Drawing(NamedTuple):
    """A frame as it is written."""

    people: People
    picture: np.ndarray  # (H, W, 3) uint8 RGB


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, help="a checkpoint, a cut or *.onnx")
    told = "pictures, videos, folders, patterns, or the number of a camera"
    parser.add_argument("--input", required=True, nargs="+", metavar="INPUT", help=told)
    parser.add_argument("--out", type=Path, default=Path("output/demo"), metavar="FOLDER")
    parser.add_argument("--track", action="store_true", help="ids and smooth joints in videos")
    parser.add_argument("--min-score", type=float, default=0.2, help="of a person (default: 0.2)")
    parser.add_argument("--show", action="store_true", help="in a window, too")
    add_settings_flags(parser)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    quiet_opencv()
    sources = find_sources(args.input)
    if args.track and not any(source.is_video for source in sources):
        raise ValueError("--track is for videos and cameras; the input has none")
    if args.show:
        open_window()
    network = open_network(args.model, args.cfg, args.superconfig, args.opts, args.gpu)
    return watch(network, sources, args.out, args.track, args.min_score, args.show)


def watch(
    network: Network,
    sources: Sequence[Source],
    out: Path,
    track: bool = False,
    min_score: float = 0.2,
    show: bool = False,
) -> int:
    """Find, draw and write the people of all `sources`, and tell how fast; the exit code.

    A KeyboardInterrupt passes once everything is written and told.
    """
    clock, problems, interrupted = Clock(), [], False
    started = time.perf_counter()
    with (
        Output(out, network.spec, sources) as output,
        contextlib.closing(drawings(network, sources, clock, track, min_score)) as shots,
    ):
        try:
            for shot in progress(shots, sources):
                if isinstance(shot, Problem):
                    problems.append(shot.line)
                    if len(sources) > 1:
                        logger.warning("%s", shot.line)
                    continue
                begin = time.perf_counter()
                output.write(shot.frame, *shot.made)
                clock.add("write", time.perf_counter() - begin)
                if show and is_last(shot):
                    break
        except KeyboardInterrupt:
            interrupted = True
    if problems and not output.images:
        several = f"not one of {len(sources)} pictures and videos could be read"
        raise ValueError(several if len(sources) > 1 else problems[0])
    print(f"{output.people} people in {output.images} pictures: {out}")
    if output.images:
        print(table(clock, (time.perf_counter() - started) / output.images))
    if interrupted:
        raise KeyboardInterrupt
    return 1 if problems else 0


def drawings(
    network: Network, sources: Sequence[Source], clock: Clock, track: bool, min_score: float
) -> Generator[Shot | Problem]:
    """A `Shot` that made a `Drawing` of each frame, in order; each step has a thread."""
    shots = ahead(clock.coming("read", inputs(network, sources)))
    for part, work in (
        ("network", lambda shot: network.compute(shot.made)),
        ("group", grouping(network, track, min_score)),
        ("draw", lambda shot: draw(network.spec, shot)),
    ):
        shots = ahead(clock.each(part, partial(attempt, work), shots))
    return shots


def inputs(network: Network, sources: Sequence[Source]) -> Generator[Shot | Problem]:
    """The frames of all sources, as the network wants them."""
    for source in sources:
        frames = read_source(source)
        while True:
            try:
                frame = next(frames, None)
            except ValueError as error:
                yield Problem(str(error))
                break
            if frame is None:
                break
            yield attempt(lambda shot: network.prepare(shot.frame.image), Shot(frame))


def grouping(network: Network, track: bool, min_score: float) -> Callable[[Shot], People]:
    """What makes `People` of a shot's maps; it remembers those of the frame before."""
    tracker = None

    def group(shot: Shot) -> People:
        nonlocal tracker
        joints, scores = network.group(shot.made)
        order = [i for i in np.argsort(-np.array(scores), kind="stable") if scores[i] >= min_score]
        joints, scores = joints[order, :, :3], [float(scores[i]) for i in order]
        if not (track and shot.frame.source.is_video):
            return People(joints, scores, None)
        if shot.frame.number == 1:
            tracker = Tracker(network.spec)
        joints, ids = tracker.update(joints, shot.frame.seconds)
        return People(joints, scores, ids)

    return group


def draw(spec: KeypointSpec, shot: Shot) -> Drawing:
    """The frame with skeletons in the colors of ids or, without, of places in the list."""
    joints, scores, ids = shot.made
    names = [f"{score:.2f}" for score in scores]
    colors = range(len(names))
    if ids is not None:
        names = [f"{own}  {name}" for own, name in zip(ids, names, strict=True)]
        colors = [own - 1 for own in ids]
    picture = draw_people(shot.frame.image, joints, spec, MIN_JOINT, names, colors)
    return Drawing(shot.made, picture)


def attempt(work: Callable[[Shot], Any], shot: Shot | Problem) -> Shot | Problem:
    """`shot` with what `work` makes of it; a picture, but not a video, may fail."""
    if isinstance(shot, Problem):
        return shot
    try:
        return shot._replace(made=work(shot))
    except IMAGE_ERRORS as error:
        source = shot.frame.source
        where = f"{source.name}, frame {shot.frame.number}" if source.is_video else source.name
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if source.is_video:
            raise ValueError(f"{where}: {lines[0]}") from error
        return Problem(f"{where}: {lines[0]}")


def progress(shots: Generator[Shot | Problem], sources: Sequence[Source]) -> tqdm:
    """The same under a bar, where there is a terminal."""
    counts = [frame_count(source) for source in sources]
    return tqdm(shots, total=None if None in counts else sum(counts), unit="picture", disable=None)


def quiet_opencv() -> None:
    """What cannot be read is said in our words."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def open_window() -> None:
    """ValueError where there can be none."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise ValueError("--show: there is no display; leave it away")
    try:
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    except cv2.error:
        raise ValueError(
            "--show: this OpenCV has no windows; opencv-python in place of -headless has"
        ) from None


def is_last(shot: Shot) -> bool:
    """Show it, a picture until a key is pressed; whether that says to end."""
    cv2.imshow(TITLE, shot.made.picture[..., ::-1])
    return cv2.waitKey(1 if shot.frame.source.is_video else 0) in (ord("q"), ESCAPE)


def table(clock: Clock, whole: float) -> str:
    """Markdown: what each part takes and, as they overlap, the `whole` seconds of a picture."""
    means = [*(clock.parts[part].mean for part in PARTS), whole]
    rows = [
        ["part", *PARTS, "all, overlapping"],
        ["---"] * (len(means) + 1),
        ["ms a picture", *(f"{1000 * mean:.1f}" for mean in means)],
        ["pictures/s", *(f"{1 / mean:.1f}" for mean in means)],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cli.run(main)
