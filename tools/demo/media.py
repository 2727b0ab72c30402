"""Pictures and videos in, upright and in RGB, whatever they are stored as; videos out."""

from __future__ import annotations

import glob
import logging
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lib.utils.images import read_image

logger = logging.getLogger(__name__)

PICTURES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2"),
    *(".ppm", ".pgm", ".pbm"),
)
VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".ts", ".3gp", ".gif"),
)
FORMATS = ((".mp4", "mp4v"), (".avi", "MJPG"))  # of videos out; the first that can be written
FRAME_RATE = 30.0  # where a video does not say one that can be
FASTEST = 240.0


class Source(NamedTuple):
    """A picture, a video or a camera."""

    name: str
    place: Path | int  # the file, or the camera's number
    is_video: bool  # or a camera

    @property
    def is_camera(self) -> bool:
        return isinstance(self.place, int)


class Frame(NamedTuple):
    """A picture, or one of a video's."""

    source: Source
    number: int  # in its source, from 1
    seconds: float  # after the first
    rate: float  # frames a second; 0: a picture
    image: np.ndarray  # (H, W, 3) uint8 RGB, upright


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """What is meant by files, folders, patterns as `*.jpg`, and numbers of cameras.

    Folders and patterns give what looks like a picture or a video, by name, in order. ValueError
    names an input that means nothing.
    """
    sources = []
    for text in inputs:
        path = Path(text)
        if path.is_file():
            sources.append(_source(path))
        elif path.is_dir():
            sources += _of_files(path.iterdir(), f"the folder {text}")
        elif text.isdecimal():
            sources.append(Source(f"camera {int(text)}", int(text), True))
        elif glob.has_magic(text):
            found = map(Path, glob.glob(text, recursive=True))
            sources += _of_files((p for p in found if p.is_file()), f"the pattern {text}")
        else:
            raise ValueError(f"there is no file or folder {text}")
    return sources


def read_source(source: Source) -> Generator[Frame]:
    """A picture, or the frames of a video or a camera; ValueError where nothing can be read."""
    if source.is_video:
        yield from read_video(source)
    else:
        yield Frame(source, 1, 0.0, 0.0, read_image(source.place))


def read_video(source: Source) -> Generator[Frame]:
    """The frames of a video, a phone's upright, or of a camera until it is unplugged.

    ValueError when there is not one. A video that is shorter than it says is told in the log.
    """
    capture = cv2.VideoCapture(source.place if source.is_camera else str(source.place))
    if source.is_camera:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture rather than the next
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate <= FASTEST else FRAME_RATE
    begin, number = time.perf_counter(), 0
    try:
        while True:
            there, image = capture.read()
            if not there:
                break
            seconds = time.perf_counter() - begin if source.is_camera else number / rate
            number += 1
            yield Frame(source, number, seconds, rate, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        promised = frame_count(source)
    finally:
        capture.release()
    if number == 0:
        raise ValueError(f"{source.name} gives no pictures that can be read")
    if promised and number < promised:
        logger.warning("%s ends after %d of %d frames", source.name, number, promised)


def frame_count(source: Source) -> int | None:
    """How many frames it says it has; None where nobody knows."""
    if not source.is_video:
        return 1
    if source.is_camera:
        return None
    capture = cv2.VideoCapture(str(source.place))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return count if count > 0 else None


class VideoFile:
    """A video that is being written; whole once it is closed."""

    def __init__(self, stem: Path, rate: float, image: np.ndarray) -> None:
        """STEM.mp4, or another of `FORMATS`; `image` (H, W, 3) is as large as all frames."""
        self.size = image.shape[1::-1]
        self.rate = rate
        self.frames = 0
        for suffix, codec in FORMATS:
            self.path = stem.with_name(stem.name + suffix)
            code = cv2.VideoWriter_fourcc(*codec)
            self.writer = cv2.VideoWriter(str(self.path), code, rate, self.size)
            if self.writer.isOpened():
                return
        raise ValueError(f"cannot write the video {self.path}")

    def write(self, image: np.ndarray, seconds: float) -> None:
        """A frame (H, W, 3) uint8 RGB that is shown until `seconds`, but once at least."""
        if image.shape[1::-1] != self.size:  # a stream that changes its size; others are lost
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        times = max(1, round(seconds * self.rate) + 1 - self.frames)
        for _ in range(times):
            self.writer.write(image)
        self.frames += times

    def close(self) -> None:
        self.writer.release()


def _source(path: Path) -> Source:
    return Source(str(path), path, path.suffix.lower() in VIDEOS)


def _of_files(paths: Iterable[Path], what: str) -> list[Source]:
    found = [p for p in paths if p.suffix.lower() in PICTURES + VIDEOS and p.is_file()]
    if not found:
        raise ValueError(f"{what} has no pictures or videos")
    return [_source(path) for path in sorted(found)]
