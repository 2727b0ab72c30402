"""Decoding videos with PyAV: upright 8-bit RGB frames, each with its time.

Nothing that a file says is opened: the formats below read one file, and playlists and lists of
files are not among them (docs/security.md).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from lib.utils.images import MAX_PIXELS
from tools.demo.media import DEFAULT_FPS, MAX_FPS, Frame, Source, Timing

logger = logging.getLogger(__name__)

FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,gif,ogg,mxf,dv"
DECODING_TIMES = {"avi"}  # formats that store no times of display
MAX_GAP = 600  # seconds between two frames; a longer gap is an error of the timestamps
UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED, of a video that does not name its color matrix
IDENTITY = np.array([1, 0, 0, 0, 1, 0, 0, 0, 1], np.int32) << 16  # a display matrix
HD_HEIGHT = 720  # from here on, players read such a video as BT.709, and below as BT.601


class Video(NamedTuple):
    """A video that is open."""

    container: InputContainer
    stream: VideoStream
    timing: Timing


class Clock:
    """The times of frames, always growing, from timestamps that may be missing, equal or reset."""

    def __init__(self, timing: Timing, start: float = 0.0) -> None:
        """`start`: the seconds of the first frame."""
        self.base = timing.time_base
        self.step = max(1, round(1 / (timing.fps * self.base)))
        self.last = round(start / self.base) - self.step  # ticks of the frame before
        self.offset: int | None = None  # from timestamps to ticks

    def seconds(self, pts: int | None) -> float:
        """The time of the next frame, whose timestamp is `pts` times `time_base`."""
        ticks = self.last + self.step
        if pts is not None:
            gap = None if self.offset is None else (pts + self.offset - self.last) * self.base
            if gap is None or not -1 <= gap <= MAX_GAP:  # the source starts, or starts again
                self.offset = ticks - pts
            ticks = max(pts + (self.offset or 0), self.last + 1)
        self.last = ticks
        return float(ticks * self.base)


class Progress:
    """What has been read of a video, and what went wrong."""

    def __init__(self) -> None:
        self.packets = self.errors = 0
        self.received = 0.0  # when the last packet came, by time.perf_counter
        self.end: FFmpegError | None = None  # an error of reading, after which nothing comes
        self.reason = ""  # of the first error

    def count_packet(self) -> None:
        self.packets += 1
        self.received = time.perf_counter()

    def fail(self, error: FFmpegError) -> None:
        self.errors += 1
        self.reason = self.reason or reason_of(error)


def read_video(source: Source) -> Generator[Frame]:
    """The frames of a video file, upright; ValueError when there is none.

    A damaged video gives the frames that can be decoded, and one warning.
    """
    progress, number = Progress(), 0
    with open_video(source, str(source.path)) as video:
        expected = packet_count(video)
        clock, developer = Clock(video.timing), Developer(source, video.timing)
        for decoded in decode(video, progress):
            number += 1
            yield developer.develop(decoded, number, clock.seconds(decoded.pts))
    if number == 0:
        raise ValueError(no_frames(source, progress.reason))
    if progress.errors or progress.packets < expected:
        total = f" of {expected}" if expected else ""
        logger.warning("%s is damaged; %d%s frames could be read", source.name, number, total)


@contextlib.contextmanager
def open_video(
    source: Source,
    name: str,
    formats: str = FORMATS,
    options: dict[str, str] | None = None,
    timeout: float | None = None,
) -> Iterator[Video]:
    """Open the file or URL `name`; ValueError where it is no video of one of `formats`."""
    limits = {"format_whitelist": formats, "max_pixels": str(MAX_PIXELS)}
    options = {"protocol_whitelist": "file"} if options is None else options
    url = f"file:{name}" if source.is_file else name
    with contextlib.ExitStack() as files:
        try:
            container = files.enter_context(
                av.open(url, options=limits | options, metadata_errors="replace", timeout=timeout)
            )
            stream = container.streams.best("video")
        except FFmpegError as error:
            is_other = error.errno == errno.EINVAL  # of a format that is not in `formats`
            no_video = "it is no video" + ("" if source.is_file else "; download images first")
            reason = no_video if is_other else reason_of(error)
            raise ValueError(no_frames(source, reason)) from None
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise ValueError(no_frames(source, "it has no video"))
        if stream.codec_context is None:
            raise ValueError(no_frames(source, "no decoder of its format is installed"))
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        if source.is_file:
            stream.thread_type = "AUTO"  # several frames at once, which would delay a live stream
        yield Video(container, stream, timing_of(stream))


def decode(video: Video, progress: Progress) -> Generator[VideoFrame]:
    """The frames of a video to its end or to an error of reading, without undecodable ones."""
    packets = video.container.demux(video.stream)
    is_by_decoding = video.container.format.name in DECODING_TIMES
    packet = True
    while packet:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            progress.fail(error)
            progress.end, packet = error, None
        if packet and packet.size:
            progress.count_packet()
        try:
            # None and the empty packet at the end give the frames that the decoder has left.
            frames = video.stream.decode(packet)
        except EOFError:  # the decoder has given them already
            break
        except FFmpegError as error:
            progress.fail(error)
            continue
        for frame in frames:
            if is_by_decoding:
                # FFmpeg invents times of display, in the order of storage; where frames are
                # reordered they step back. Those of decoding are late by a constant.
                frame.pts = frame.dts
            yield frame


def timing_of(stream: VideoStream) -> Timing:
    """The time base of a stream, its frame rate and the shape of its pixels."""
    rates = (stream.average_rate, stream.guessed_rate)
    fps = next((rate for rate in rates if rate and 0 < rate <= MAX_FPS), Fraction(DEFAULT_FPS))
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return Timing(stream.time_base or 1 / fps, fps, aspect)


def packet_count(video: Video) -> int:
    """How many packets the index of a file lists; 0 where it has none."""
    return min(video.stream.frames, len(video.stream.index_entries))


def frame_count(source: Source) -> int | None:
    """The number of frames in the header of a file; None where it is unknown."""
    if not source.is_video:
        return 1
    if not source.is_file:
        return None
    try:
        with open_video(source, str(source.path)) as video:
            return video.stream.frames or None
    except ValueError:  # it is reported when it is read
        return None


class Developer:
    """Makes upright RGB images of the decoded frames of one video."""

    def __init__(self, source: Source, timing: Timing) -> None:
        self.source = source
        self.timing = timing
        self.rotation: int | None = None
        self.matrix = np.zeros(9, np.int32)

    def develop(self, decoded: VideoFrame, number: int, seconds: float) -> Frame:
        """The frame `number`, from 1, at `seconds`; ValueError where there is no image of it."""
        if number == 1 and decoded.pts is not None:
            start = decoded.pts * self.timing.time_base
            self.timing = self.timing._replace(start=start)
        if decoded.rotation != self.rotation:
            # Each look at the side data keeps a frame in memory until the next garbage collection.
            side_data = decoded.side_data.get("DISPLAYMATRIX")
            self.matrix = IDENTITY
            if side_data is not None:
                self.matrix = np.frombuffer(side_data, np.int32).copy()
            self.rotation = decoded.rotation
        timing = self.timing
        if is_transposing(self.matrix):
            timing = timing._replace(pixel_aspect=1 / timing.pixel_aspect)
        try:
            image = to_rgb(decoded)
        except FFmpegError as error:  # no memory, or an unknown pixel format
            raise ValueError(f"{self.source.name}, frame {number}: {reason_of(error)}") from None
        return Frame(self.source, number, seconds, turned(image, self.matrix), timing)


def to_rgb(frame: VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8, as stored, from any pixel format."""
    matrix = None  # as the frame says
    if frame.colorspace == UNSPECIFIED:
        matrix = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
    return frame.to_ndarray(
        format="rgb24", src_colorspace=matrix, dst_color_range=ColorRange.JPEG, threads=1
    )


def turned(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`image` as a display matrix (9,) shows it, by the nearest of the eight orientations.

    The pixel (x, y) is shown at (a x + c y, b x + d y), where matrix = (a, b, _, c, d, _, ...).
    """
    a, b, c, d = matrix[[0, 1, 3, 4]].tolist()
    if is_transposing(matrix):
        image, a, d = cv2.transpose(image), c, b
    flips = {(True, True): -1, (True, False): 1, (False, True): 0}
    flip = flips.get((a < 0, d < 0))
    return image if flip is None else cv2.flip(image, flip)


def is_transposing(matrix: np.ndarray) -> bool:
    """Whether a display matrix (9,) makes rows of columns."""
    a, b, c, d = map(abs, matrix[[0, 1, 3, 4]].tolist())
    return b + c > a + d


def reason_of(error: FFmpegError) -> str:
    """Without the name of the file, which a URL's password may be part of."""
    return error.strerror or type(error).__name__


def no_frames(source: Source, reason: str) -> str:
    return f"{source.name} has no readable frames" + (f": {reason}" if reason else "")
