"""Streams end, or are lost and found again with a line; cameras give what they give."""

from __future__ import annotations

import base64
import http.server
import json
import re
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame

from lib.utils import cli
from tests.tools.test_demo import POINTS
from tests.tools.test_video import Coding, copy, noise, scene, write
from tools.demo import __main__ as demo
from tools.demo import reading
from tools.demo.media import Frame, find_sources
from tools.demo.reading import read_source
from tools.demo.video import frame_count

COUNT = 60
IMAGES = [noise(64, 48, i) for i in range(COUNT)]


class Site(NamedTuple):
    """A server: what it does for the requests it gets, one after the other."""

    url: str
    answers: list[Callable[[http.server.BaseHTTPRequestHandler], None]]
    paths: list[str]  # asked for


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    """The last answer is that of all later requests, too."""
    monkeypatch.setattr(reading, "PAUSE", 0.05)
    monkeypatch.setattr(reading, "TIMEOUT", 0.5)
    answers, paths = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):  # the reader has gone
                pass

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Site(f"http://127.0.0.1:{server.server_port}/live", answers, paths)
        server.shutdown()
        thread.join()


def send(data: bytes, share: float = 1.0, has_length: bool = True, wait: float = 0.0):
    """An answer with that share of `data`, after which the connection is closed."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if has_length:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: round(share * len(data))])
        time.sleep(wait)

    return answer


def refuse(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_error(503)


def frames_of(url: str) -> list[Frame]:
    return list(read_source(find_sources([url])[0]))


@pytest.fixture
def recording(tmp_path) -> bytes:
    """An MP4 whose index comes first, as the demo writes it."""
    path = write(tmp_path / "a.mp4", IMAGES, coding=Coding(options={"g": "5"}))
    return copy(path, tmp_path / "b").read_bytes()


@pytest.fixture
def live(tmp_path) -> bytes:
    """MPEG-TS, in which no place knows the length."""
    return write(tmp_path / "a.ts", IMAGES, coding=Coding(options={"g": "5"})).read_bytes()


def test_a_recording_is_read_to_its_end(site, recording, caplog):
    site.answers.append(send(recording))
    frames = frames_of(site.url)
    assert [frame.seconds for frame in frames] == pytest.approx([i / 10 for i in range(COUNT)])
    assert not caplog.records


def test_a_live_stream_is_read_to_its_end(site, live, caplog):
    site.answers.append(send(live, has_length=False))
    assert len(frames_of(site.url)) == COUNT
    assert not caplog.records


def test_a_recording_goes_on_after_a_lost_connection(site, recording, caplog):
    site.answers.extend([send(recording, 0.5), refuse, send(recording)])
    frames = frames_of(site.url)
    assert [frame.number for frame in frames] == list(range(1, COUNT + 1))
    assert [frame.seconds for frame in frames] == pytest.approx([i / 10 for i in range(COUNT)])
    assert len(caplog.records) == 1
    assert "connecting again, up to 10 times" in caplog.text


def test_a_live_stream_goes_on_after_a_silence_and_a_pause_which_counts(
    site, live, monkeypatch, caplog
):
    monkeypatch.setattr(reading, "PAUSE", 0.5)
    site.answers.extend([send(live, 0.5, has_length=False, wait=1.0), send(live, has_length=False)])
    frames = frames_of(site.url)
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    assert COUNT < len(frames) < 2 * COUNT
    steps = np.diff([frame.seconds for frame in frames])
    assert np.isclose(steps, 0.1).sum() == len(steps) - 1
    assert 0.5 < steps.max() < 5
    assert "no data for 0.5 seconds; connecting again" in caplog.text


def test_a_stream_that_stays_lost_is_one_more_line_and_keeps_its_frames(
    site, recording, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.setattr(reading, "TRIES", 2)
    site.answers.extend([send(recording, 0.5), refuse])
    sources = find_sources([site.url.replace("//", "//me:secret@")])
    code = cli.code_of(lambda: demo.process(POINTS, sources, tmp_path / "out"))
    assert code == 1
    assert len(site.paths) == 3
    first, last = (record.getMessage() for record in caplog.records)
    assert "closed before the end; connecting again, up to 2 times" in first
    count = len(list(read_source(find_sources([str(tmp_path / "out/live.mp4")])[0])))
    assert f"is lost after {count} frames" in last
    assert COUNT / 3 < count < COUNT
    listed = json.loads((tmp_path / "out/images.json").read_text("utf-8"))["images"]
    assert [entry["time"] for entry in listed] == pytest.approx([i / 10 for i in range(count)])
    assert "secret" not in caplog.text + json.dumps(listed) + capsys.readouterr().err


def test_a_stream_that_cannot_be_opened_is_a_mistake_of_one_line(site, tmp_path, capsys):
    site.answers.append(refuse)
    for url in (site.url.replace("//", "//me:secret@"), "rtsp://me:secret@127.0.0.1:1/live"):
        sources = find_sources([url])
        code = cli.code_of(lambda given=sources: demo.process(POINTS, given, tmp_path / "out"))
        assert code == cli.MISTAKE
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "live has no readable frames: " in message
        assert "secret" not in message


def test_a_stream_that_sends_nothing_is_not_waited_for(site):
    site.answers.append(send(b"", has_length=False, wait=3.0))
    began = time.monotonic()
    with pytest.raises(ValueError, match="live has no readable frames"):
        frames_of(site.url)
    assert time.monotonic() - began < 2


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{}\n#EXT-X-ENDLIST\n"


def test_a_playlist_of_a_server_is_followed(site, live):
    site.answers.extend([send(PLAYLIST.format("a.ts").encode()), send(live)])
    assert len(frames_of(site.url + ".m3u8")) == COUNT
    assert site.paths[:2] == ["/live.m3u8", "/a.ts"]


@pytest.mark.parametrize("name", ["{}", "file://{}", "concat:{}", "subfile,,start,0,end,0,,:{}"])
def test_a_playlist_of_a_server_cannot_name_a_file(site, live, tmp_path, name):
    assert (tmp_path / "a.ts").read_bytes() == live
    site.answers.append(send(PLAYLIST.format(name.format(tmp_path / "a.ts")).encode()))
    with pytest.raises(ValueError, match="has no readable frames"):
        frames_of(site.url + ".m3u8")


def test_a_camera_that_sends_jpeg_images_is_a_stream(site):
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace;boundary=next")
        handler.end_headers()
        for _ in range(5):
            image = cv2.imencode(".jpg", scene())[1].tobytes()
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
            handler.wfile.write(head.encode() + image + b"\r\n")

    site.answers.append(answer)
    frames = frames_of(site.url)
    assert len(frames) in (4, 5)
    assert frames[0].image.shape == (48, 64, 3)
    assert (np.diff([frame.seconds for frame in frames]) > 0).all()


# --- RTSP ---------------------------------------------------------------------------------


def nal_units(images: list[np.ndarray]) -> list[list[bytes]]:
    """The units of H.264 of each image, parameter sets included."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10)
    encoder.options = {"tune": "zerolatency", "preset": "ultrafast", "threads": "1"}
    packets = []
    for image in images:
        packets += encoder.encode(VideoFrame.from_ndarray(image, format="rgb24"))
    units = [re.split(rb"\x00\x00\x00?\x01", bytes(packet))[1:] for packet in packets]
    return [[unit.rstrip(b"\0") for unit in group] for group in units]


class RtspCamera(socketserver.StreamRequestHandler):
    """Answers what a player asks for, then sends `frames` inside the same connection (TCP)."""

    frames: list[list[bytes]] = []

    def handle(self) -> None:
        while request := self.read_request():
            method, number = request
            self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{self.answer(method)}".encode())
            if method == "PLAY":
                self.play()
                return

    def read_request(self) -> tuple[str, str] | None:
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        number = next((line.split()[1] for line in lines if line.startswith("CSeq")), "0")
        return (lines[0].split()[0], number) if lines else None

    def answer(self, method: str) -> str:
        sets = [unit for unit in self.frames[0] if unit[0] & 31 in (7, 8)]
        names = ",".join(base64.b64encode(unit).decode() for unit in sets)
        description = (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
            "a=rtpmap:96 H264/90000\r\na=control:track1\r\n"
            f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={names}\r\n"
        )
        return {
            "OPTIONS": "Public: DESCRIBE, SETUP, PLAY\r\n\r\n",
            "DESCRIBE": "Content-Type: application/sdp\r\n"
            f"Content-Length: {len(description)}\r\n\r\n{description}",
            "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
            "PLAY": "Session: 1\r\n\r\n",
        }[method]

    def play(self) -> None:
        sequence = 0
        for number, units in enumerate(self.frames):
            for unit in units:
                last = 128 if unit is units[-1] else 0
                header = struct.pack(">BBHII", 128, 96 + last, sequence, 9000 * number, 1)
                packet = header + unit
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                sequence += 1


@pytest.fixture
def camera(monkeypatch) -> Iterator[str]:
    """The URL of an RTSP camera that ends the connection after 20 frames."""
    monkeypatch.setattr(RtspCamera, "frames", nal_units(IMAGES[:20]))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), RtspCamera) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"rtsp://me:secret@127.0.0.1:{server.server_address[1]}/live"
        server.shutdown()
        thread.join()


def test_an_rtsp_camera_is_read_until_it_ends(camera, caplog):
    frames = frames_of(camera)
    assert len(frames) == 20
    assert [frame.seconds for frame in frames] == pytest.approx([i / 10 for i in range(20)])
    assert frames[0].image.shape == (48, 64, 3)
    assert not caplog.records


# --- cameras ----------------------------------------------------------------------------


class Camera:
    """Number 0 gives three images, no other is there; it knows nothing of itself."""

    def __init__(self, number: int) -> None:
        self.number, self.left = number, 3

    def read(self):
        if not self.left or self.number:
            return False, None
        self.left -= 1
        return True, scene()

    def get(self, key: int) -> float:
        return 0.0

    def set(self, key: int, value: float) -> bool:
        return False

    def release(self) -> None:
        pass


def test_a_camera_gives_frames_at_the_time_they_come_until_it_is_unplugged(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    [source] = find_sources(["0"])
    frames = list(read_source(source))
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert 0 == frames[0].seconds < frames[1].seconds < frames[2].seconds < 1
    assert frames[0].timing.fps > 0
    assert frame_count(source) is None


def test_a_camera_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with pytest.raises(ValueError, match="camera 7 has no readable frames"):
        list(read_source(find_sources(["7"])[0]))
