"""Reading images, videos and cameras as upright 8-bit RGB frames; writing videos."""

from __future__ import annotations

import glob
import logging
import os
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from lib.utils.files import Partial, WriteError
from lib.utils.images import read_image

logger = logging.getLogger(__name__)

IMAGES = set(".jpg .jpeg .png .bmp .webp .tif .tiff .jp2 .ppm .pgm .pbm".split())
VIDEOS = set(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ts .3gp .gif".split())
FORMATS = ((".mp4", "mp4v"), (".avi", "MJPG"))  # of written videos; the first one that works
DEFAULT_FPS = 30.0  # where a video names no possible frame rate
MAX_FPS = 240.0


class Source(NamedTuple):
    """An image, a video or a camera."""

    name: str
    location: Path | int  # the file, or the camera's number
    is_video: bool  # or a camera

    @property
    def is_camera(self) -> bool:
        return isinstance(self.location, int)

    @property
    def path(self) -> Path:
        assert isinstance(self.location, Path)
        return self.location


class Frame(NamedTuple):
    """An image, or one frame of a video."""

    source: Source
    number: int  # in its source, from 1
    seconds: float  # after the first frame
    fps: float  # of its source; 0: an image
    image: np.ndarray  # (H, W, 3) uint8 RGB, upright


def quiet_opencv() -> None:
    """Silence OpenCV's messages about files; ours follow."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The sources named by files, folders, patterns like `*.jpg`, and numbers of cameras.

    Folders and patterns give their images and videos, by name, in order. ValueError names an input
    that matches nothing.
    """
    sources = []
    for text in inputs:
        path = Path(text)
        if path.is_file():
            sources.append(_source(path))
        elif path.is_dir():
            sources += _sources_of(path.iterdir(), f"the folder {text}")
        elif text.isdecimal():
            sources.append(Source(f"camera {int(text)}", int(text), True))
        elif glob.has_magic(text):
            matches = map(Path, glob.glob(text, recursive=True))
            sources += _sources_of(matches, f"the pattern {text}")
        else:
            raise ValueError(f"there is no file or folder {text}")
    return sources


def read_source(source: Source) -> Generator[Frame]:
    """The image, or the frames of a video or a camera; ValueError when nothing can be read."""
    if source.is_video:
        yield from read_video(source)
    else:
        yield Frame(source, number=1, seconds=0.0, fps=0.0, image=read_image(source.path))


def read_video(source: Source) -> Generator[Frame]:
    """The frames of a video, upright, or of a camera until it is unplugged.

    ValueError when there is none. A warning when a video has fewer frames than its header says.
    """
    capture = open_capture(source)
    if source.is_camera:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # read the newest frame, not the next one
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps <= MAX_FPS else DEFAULT_FPS
    begin, number = time.perf_counter(), 0
    try:
        while True:
            success, image = capture.read()
            if not success:
                break
            seconds = time.perf_counter() - begin if source.is_camera else number / fps
            number += 1
            yield Frame(source, number, seconds, fps, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        expected = frame_count(source)
    finally:
        capture.release()
    if number == 0:
        raise ValueError(f"{source.name} has no readable frames")
    if expected and number < expected:
        logger.warning("%s ends after %d of %d frames", source.name, number, expected)


def opencv_name(path: Path) -> Any:
    """The bytes of a name: OpenCV ends the process on text that is not UTF-8."""
    return os.fsencode(path)


def open_capture(source: Source) -> cv2.VideoCapture:
    """OpenCV's reader of a video or a camera."""
    if source.is_camera:
        return cv2.VideoCapture(source.location)
    return cv2.VideoCapture(opencv_name(source.path))


def frame_count(source: Source) -> int | None:
    """The number of frames in the header; None where it is unknown."""
    if not source.is_video:
        return 1
    if source.is_camera:
        return None
    capture = open_capture(source)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return count if count > 0 else None


def has_frame(video: Source, number: int) -> bool:
    """Whether the frame `number`, from 0, can be read."""
    capture = open_capture(video)
    capture.set(cv2.CAP_PROP_POS_FRAMES, number)
    success, _ = capture.read()
    capture.release()
    return success


class VideoFile:
    """A video that is being written; it takes its place, whole, once it is closed."""

    def __init__(self, stem: Path, fps: float, image: np.ndarray) -> None:
        """STEM.mp4, or another of `FORMATS`; `image` (H, W, 3) has the size of all frames."""
        self.size = image.shape[1::-1]
        self.fps = fps
        self.frames = 0
        for suffix, codec in FORMATS:
            self.path = stem.with_name(stem.name + suffix)
            self.partial = Partial(self.path)
            code, name = cv2.VideoWriter.fourcc(*codec), opencv_name(self.partial.path)
            self.writer = cv2.VideoWriter(name, code, fps, self.size)
            if self.writer.isOpened():
                return
            self.partial.discard()
        raise WriteError(f"cannot write the video {self.path}")

    def write(self, image: np.ndarray, seconds: float) -> None:
        """A frame (H, W, 3) uint8 RGB, repeated until `seconds`, at least once."""
        if image.shape[1::-1] != self.size:  # a stream that changes its size
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        repeats = max(1, round(seconds * self.fps) + 1 - self.frames)
        for _ in range(repeats):
            self.writer.write(image)
            self.frames += 1

    def close(self) -> None:
        """Finish the video; WriteError where it lacks frames, and a file of this name stays then.

        OpenCV does not say whether its writing failed.
        """
        self.writer.release()
        written = Source(str(self.partial.path), self.partial.path, True)
        count = frame_count(written) or 0
        if count < self.frames or not has_frame(written, self.frames - 1):
            self.partial.discard()
            raise WriteError(f"cannot write the whole video {self.path}; is the disk full?")
        self.partial.publish()

    def discard(self) -> None:
        """Delete what is written; a file of this name stays."""
        self.writer.release()
        self.partial.discard()


def _source(path: Path) -> Source:
    return Source(str(path), path, path.suffix.lower() in VIDEOS)


def _sources_of(paths: Iterable[Path], origin: str) -> list[Source]:
    media = [p for p in paths if p.suffix.lower() in IMAGES | VIDEOS and p.is_file()]
    if not media:
        raise ValueError(f"{origin} has no images or videos")
    return [_source(path) for path in sorted(media)]
