"""Frames of any source: images, videos, streams that may be lost, and cameras."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction

import cv2
from av.error import ExitError

from lib.utils.images import read_image
from tools.demo.media import Frame, Source, Timing
from tools.demo.video import (
    FORMATS,
    Clock,
    Developer,
    Progress,
    decode,
    no_frames,
    open_video,
    packet_count,
    read_video,
)

logger = logging.getLogger(__name__)

# What a stream may be, and what a playlist (HLS) may name: other URLs, but no file.
STREAM_FORMATS = f"{FORMATS},rtsp,rtp,hls,mpjpeg,mjpeg,aac,ac3,mp3,webvtt"
PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto,rtp,udp"
STREAM_OPTIONS = {"protocol_whitelist": PROTOCOLS, "rtsp_flags": "prefer_tcp"}
TIMEOUT = 10.0  # seconds without data after which a stream is lost
TRIES = 10  # to connect again
PAUSE = 3.0  # seconds before each
CAMERA_TIME_BASE = 90_000  # ticks a second


def read_source(source: Source) -> Generator[Frame]:
    """The image, or the frames of anything else; ValueError when nothing can be read."""
    if not source.is_video:
        yield Frame(source, number=1, seconds=0.0, image=read_image(source.path), timing=None)
    elif isinstance(source.location, int):
        yield from read_camera(source, source.location)
    elif isinstance(source.location, str):
        yield from read_stream(source, source.location)
    else:
        yield from read_video(source)


def read_camera(source: Source, number: int) -> Generator[Frame]:
    """The frames of a camera, with the times of their arrival, until it is unplugged."""
    capture = cv2.VideoCapture(number)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # read the newest frame, not the next one
    timing = Timing.of(capture.get(cv2.CAP_PROP_FPS))
    timing = timing._replace(time_base=Fraction(1, CAMERA_TIME_BASE))
    clock, count = Clock(timing), 0
    try:
        while True:
            success, image = capture.read()
            if not success:
                break
            count += 1
            seconds = clock.seconds(round(time.perf_counter() * CAMERA_TIME_BASE))
            yield Frame(source, count, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), timing)
    finally:
        capture.release()
    if count == 0:
        raise ValueError(no_frames(source, ""))


@dataclass
class Position:
    """How far a stream has been read, over all connections."""

    number: int = 0  # of the last frame
    seconds: float = 0.0  # its time
    pts: int = 0  # its timestamp
    received: float = 0.0  # when the last packet came, by time.perf_counter
    clock: Clock | None = None


def read_stream(source: Source, url: str) -> Generator[Frame]:
    """The frames of a stream until it ends.

    A lost connection is opened again, with a warning. ValueError when the first one gives nothing,
    or after TRIES connections in a row that give no frame.
    """
    at, tries = Position(), 0
    while True:
        before = at.number
        reason = yield from read_connection(source, url, at)
        if reason is None:
            return
        tries = 1 if at.number > before else tries + 1
        if at.number == 0:
            raise ValueError(reason)
        if tries > TRIES:
            raise ValueError(f"{source.name} is lost after {at.number} frames")
        if tries == 1:
            logger.warning("%s: %s; connecting again, up to %d times", source.name, reason, TRIES)
        time.sleep(PAUSE)


def read_connection(source: Source, url: str, at: Position) -> Generator[Frame, None, str | None]:
    """The frames after `at`, which moves on; returns why the connection is lost, None at the end.

    A recording is read from its start again, without the frames that were given. Of a live stream,
    the time without a connection is missing.
    """
    progress = Progress()
    try:
        with open_video(source, url, STREAM_FORMATS, STREAM_OPTIONS, TIMEOUT) as video:
            has_size = video.container.size > 0
            is_recording = has_size or video.container.duration is not None
            if at.clock is None or not is_recording:
                at.clock = Clock(video.timing, start=next_time(at, video.timing))
            developer = Developer(source, video.timing)
            for decoded in decode(video, progress):
                pts = at.pts + 1 if decoded.pts is None else decoded.pts
                if is_recording and at.number and pts <= at.pts:
                    continue
                at.number, at.pts, at.received = at.number + 1, pts, progress.received
                at.seconds = at.clock.seconds(decoded.pts)
                yield developer.develop(decoded, at.number, at.seconds)
            is_short = progress.packets < packet_count(video)
    except ValueError as error:
        return str(error)
    if at.number == 0:
        return no_frames(source, progress.reason)
    if isinstance(progress.end, ExitError):
        return f"no data for {TIMEOUT:g} seconds"
    # FFmpeg calls it EIO where the server ends a stream without a size, too.
    if is_short or (progress.end and (has_size or progress.end.errno != errno.EIO)):
        return "the connection was closed before the end"
    return None


def next_time(at: Position, timing: Timing) -> float:
    """The seconds of the first frame of a live stream after `at`, at least one frame later."""
    if at.clock is None:
        return 0.0
    return at.seconds + max(time.perf_counter() - at.received, float(1 / timing.fps))
