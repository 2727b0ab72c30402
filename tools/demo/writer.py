"""Writing videos that play everywhere: H.264, yuv420p, in MP4 whose index comes first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from lib.utils.files import Partial, WriteError
from tools.demo.media import Timing
from tools.demo.sound import Sound
from tools.demo.video import HD_HEIGHT

ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf")  # the first one that is there
X264 = {"preset": "superfast", "crf": "25"}  # looks like veryfast with 23, in less time
BITS_PER_PIXEL = 0.1  # of encoders that have no constant quality
MAX_TIME_BASE = 10**6  # ticks a second, of MP4: a gap of ten minutes must fit into 31 bits
BT709, BT601 = 1, 6  # AVCOL_SPC_BT709 and AVCOL_SPC_SMPTE170M; the primaries have the same numbers


class VideoFile:
    """A video that is being written; it takes its place, whole, once it is closed."""

    def __init__(
        self, stem: Path, timing: Timing, image: np.ndarray, sound: Sound | None = None
    ) -> None:
        """STEM.mp4; `image` (H, W, 3) has the size of all frames. `sound` is closed with it."""
        self.path = stem.with_name(f"{stem.name}.mp4")
        self.size = image.shape[1::-1]
        self.pad = (self.size[0] % 2, self.size[1] % 2)  # yuv420p has even sizes
        is_coarse = timing.time_base.denominator <= MAX_TIME_BASE
        self.time_base = timing.time_base if is_coarse else Fraction(1, MAX_TIME_BASE)
        self.step = float(1 / timing.fps)
        self.sound = sound
        self.last = -1  # ticks of the frame before
        self.is_whole = True
        self.partial = Partial(self.path)
        with self._reported():
            self.container = av.open(
                f"file:{self.partial.path}", "w", options={"movflags": "+faststart"}
            )
            self.stream = self._add_stream(timing)
            if self.sound:
                self.sound.add_to(self.container)
            self.container.start_encoding()

    def write(self, image: np.ndarray, seconds: float) -> None:
        """A frame (H, W, 3) uint8 RGB, shown from `seconds` to the time of the next one."""
        if image.shape[1::-1] != self.size:  # a stream that changes its size
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        if any(self.pad):
            right, bottom = self.pad
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        self.last = max(self.last + 1, round(Fraction(seconds) / self.time_base))
        with self._reported():
            shared = VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24")
            frame = shared.reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                dst_colorspace=Colorspace.ITU709 if self._is_hd() else Colorspace.ITU601,
                threads=1,
            )
            frame.pts, frame.time_base = self.last, self.time_base
            self.container.mux(self.stream.encode(frame))
            if self.sound:
                self.sound.write_until(float(self.last * self.time_base))

    def close(self) -> None:
        """Finish the video; WriteError where that fails, and a file of this name stays then.

        Nothing happens after a WriteError of `write`.
        """
        if not self.is_whole:
            return
        with self._reported():
            self.container.mux(self.stream.encode(None))
            if self.sound:
                self.sound.write_until(float(self.last * self.time_base) + self.step)
                self.sound.close()
            self.container.close()
        self.partial.publish()

    def discard(self) -> None:
        """Delete what is written; a file of this name stays."""
        self.is_whole = False
        if self.sound:
            self.sound.close()
        with contextlib.suppress(AttributeError, FFmpegError, OSError):
            self.container.close()
        self.partial.discard()

    def _add_stream(self, timing: Timing) -> VideoStream:
        width, height = (side + odd for side, odd in zip(self.size, self.pad, strict=True))
        encoder = find_encoder()
        is_x264 = encoder == "libx264"
        bit_rate = 0 if is_x264 else round(BITS_PER_PIXEL * width * height * timing.fps)
        stream = self.container.add_stream(
            encoder,
            rate=timing.fps,
            options=X264 if is_x264 else {},
            width=width,
            height=height,
            bit_rate=bit_rate,
            time_base=self.time_base,
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.pix_fmt = "yuv420p"
        context.max_b_frames = 0  # frames are stored in the order in which they are shown
        context.sample_aspect_ratio = timing.pixel_aspect
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = (
            BT709 if self._is_hd() else BT601
        )
        return stream

    def _is_hd(self) -> bool:
        return self.size[1] >= HD_HEIGHT

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """WriteError in place of the errors of PyAV and of the disk; the video is gone then."""
        try:
            yield
        except (FFmpegError, OSError) as error:
            self.discard()
            reason = error.strerror or type(error).__name__
            raise WriteError(f"cannot write the video {self.path}: {reason}") from None
        except ValueError:
            self.discard()
            raise


def find_encoder() -> str:
    """The first of ENCODERS that is installed."""
    for name in ENCODERS:
        with contextlib.suppress(UnknownCodecError):
            return av.Codec(name, "w").name
    raise WriteError(
        f"cannot write videos: PyAV has none of the H.264 encoders {', '.join(ENCODERS)}; "
        "the one of `pip install av` has libx264"
    )
