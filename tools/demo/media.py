"""Sources of frames: images, videos, streams and cameras."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np

from lib.utils.images import is_image_file

IMAGES = set(".jpg .jpeg .png .bmp .webp .tif .tiff .jp2 .ppm .pgm .pbm".split())
VIDEOS = set(".mp4 .m4v .mov .3gp .avi .mkv .webm .wmv .flv .gif .ogv .mxf".split())
VIDEOS |= set(".mpg .mpeg .vob .ts .mts .m2ts".split())
SCHEMES = ("rtsp", "rtsps", "http", "https")  # of streams
DEFAULT_FPS = 30  # where a video names no possible frame rate
MAX_FPS = 1000


class Source(NamedTuple):
    """An image, a video, a stream or a camera."""

    name: str
    location: Path | str | int  # the file, the stream's URL, or the camera's number
    is_video: bool  # or a stream, or a camera

    @property
    def is_file(self) -> bool:
        return isinstance(self.location, Path)

    @property
    def path(self) -> Path:
        assert isinstance(self.location, Path)
        return self.location

    @property
    def stem(self) -> str:
        """The name of what is written for it, without a suffix."""
        if isinstance(self.location, Path):
            return self.location.stem
        if isinstance(self.location, int):
            return f"camera_{self.location}"
        url = urlsplit(self.location)
        name = PurePosixPath(url.path).stem or url.hostname or ""
        return re.sub(r"[^\w.-]+", "_", name).strip(".") or "stream"


class Timing(NamedTuple):
    """What the output video has in common with the video that is read."""

    time_base: Fraction  # seconds; the times of all frames are multiples of it
    fps: Fraction  # frames a second, on average
    pixel_aspect: Fraction = Fraction(1)  # width / height of a pixel on the screen
    start: Fraction = Fraction(0)  # seconds of the first frame, by the clock of the source

    @classmethod
    def of(cls, fps: float) -> Timing:
        """A constant frame rate, or DEFAULT_FPS where `fps` is not possible."""
        rate = Fraction(fps if 0 < fps <= MAX_FPS else DEFAULT_FPS).limit_denominator(10**5)
        return cls(1 / rate, rate)


class Frame(NamedTuple):
    """An image, or one frame of a video."""

    source: Source
    number: int  # in its source, from 1
    seconds: float  # after the first frame
    image: np.ndarray  # (H, W, 3) uint8 RGB, upright
    timing: Timing | None  # of its source; None: an image


def quiet_opencv() -> None:
    """Silence OpenCV's messages about files and cameras; ours follow."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The sources named by files, folders, patterns like `*.jpg`, URLs and numbers of cameras.

    A file whose ending says nothing is an image if it begins like one, or else a video.

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
        elif camera := re.fullmatch(r"(?:/dev/video)?(\d+)", text, re.ASCII):
            number = int(camera[1])
            sources.append(Source(f"camera {number}", number, True))
        elif "://" in text:
            sources.append(_stream(text))
        elif glob.has_magic(text):
            matches = map(Path, glob.glob(text, recursive=True))
            sources += _sources_of(matches, f"the pattern {text}")
        else:
            raise ValueError(f"there is no file or folder {text}")
    return sources


def _source(path: Path) -> Source:
    ending = path.suffix.lower()
    is_video = ending in VIDEOS or (ending not in IMAGES and not is_image_file(path))
    return Source(str(path), path, is_video)


def _stream(url: str) -> Source:
    """Its name has no password and no query, which may be a key."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"cannot read {parts.scheme}:// streams; wanted one of {schemes}")
    host = parts.netloc.rpartition("@")[2]
    return Source(f"{parts.scheme}://{host}{parts.path}", url, is_video=True)


def _sources_of(paths: Iterable[Path], origin: str) -> list[Source]:
    media = [p for p in paths if p.suffix.lower() in IMAGES | VIDEOS and p.is_file()]
    if not media:
        raise ValueError(f"{origin} has no images or videos")
    return [_source(path) for path in sorted(media)]


def find_images(folder: Path, flag: str) -> list[str]:
    """The images of a folder and its subfolders, relative to it; ValueError if there are none.

    flag: of the command line, for errors.
    """
    if not folder.is_dir():
        raise ValueError(f"{flag}: there is no folder {folder}")
    names = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGES and path.is_file()
    ]
    if not names:
        raise ValueError(f"{flag}: the folder {folder} has no images")
    return sorted(names)
