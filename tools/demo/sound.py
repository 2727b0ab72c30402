"""The sound of a video file, copied as it is into the video that is written."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from fractions import Fraction

from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from tools.demo.media import Source
from tools.demo.video import open_video

logger = logging.getLogger(__name__)

COPIED = ("aac", "mp3", "mp3float")  # what every player of MP4 plays


class Sound:
    """The packets of a video file's sound, in order, counted from its first frame."""

    def __init__(self, source: Source, start: Fraction) -> None:
        """`start`: seconds of the first frame, by the clock of the file.

        Of a stream, of a camera and of a file without sound there is none. A sound that MP4
        players may not play is left out, with a warning.
        """
        self.name, self.start = source.name, start
        self.files = contextlib.ExitStack()
        self.packets: Iterator[Packet] = iter(())
        self.stream: AudioStream | None = None
        self.next: Packet | None = None
        self.time = 0.0  # of the next packet, in seconds after the first frame
        if not source.is_file:
            return
        try:
            container = self.files.enter_context(open_video(source, str(source.path))).container
        except ValueError:  # it was readable when its first frame was read
            return
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            return
        if stream.codec_context is None or stream.codec_context.name not in COPIED:
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            self._leave_out(f"its codec is {codec}, and not AAC or MP3")
            return
        self.stream = stream
        self.packets = container.demux(stream)

    def add_to(self, container: OutputContainer) -> None:
        """Add a stream for the sound to a file that is not begun yet."""
        if self.stream:
            self.copy = container.add_stream_from_template(self.stream)
            self.container = container
            self._read()

    def write_until(self, seconds: float) -> None:
        """Copy the packets that begin before `seconds` after the first frame."""
        while self.next and self.time < seconds:
            self.next.stream = self.copy
            self.container.mux(self.next)
            self._read()

    def close(self) -> None:
        self.next = None
        self.files.close()

    def _read(self) -> None:
        """The next packet with a time of 0 or more; none after an error of reading."""
        self.next = None
        try:
            for packet in self.packets:
                if packet.pts is None or packet.dts is None:
                    continue
                shift = round(self.start / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                if packet.dts >= 0:
                    self.next, self.time = packet, float(packet.pts * packet.time_base)
                    return
        except FFmpegError as error:
            self._leave_out(error.strerror or type(error).__name__)

    def _leave_out(self, reason: str) -> None:
        logger.warning("%s: its sound is left out: %s", self.name, reason)
