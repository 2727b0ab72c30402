"""The sound of a clip is in the video that is written, at its time."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from tools.demo.media import find_sources
from tools.demo.reading import read_source
from tools.demo.sound import Sound
from tools.demo.writer import VideoFile

RATE, BLOCK = 44100, 1024
BEEP = 1.0  # second after the first frame at which silence ends
IMAGE = np.full((48, 64, 3), 90, np.uint8)


def write(path: Path, codec: str = "aac", late: float = 0.0, seconds: float = 2.0) -> Path:
    """A clip whose first frame is `late` seconds after the start of the sound."""
    rate = 48000 if codec == "libopus" else RATE
    with av.open(f"file:{path}", "w") as container:
        coding = "mpeg4" if path.suffix == ".avi" else "libx264"  # AVI has no order of frames
        video = container.add_stream(coding, rate=10, width=64, height=48, pix_fmt="yuv420p")
        video.time_base = video.codec_context.time_base = Fraction(1, 10)
        video.codec_context.max_b_frames = 0
        sound = container.add_stream(codec, rate=rate, layout="mono")
        container.start_encoding()
        size = sound.codec_context.frame_size or BLOCK
        for i in range(round(10 * seconds)):
            frame = VideoFrame.from_ndarray(IMAGE, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round(10 * late) + i, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for i in range(math.ceil((late + seconds + 1) * rate / size)):
            times = (np.arange(size) + i * size) / rate
            wave = np.sin(2 * np.pi * 440 * times) * (times >= late + BEEP) * 0.5
            data = (wave * 32767).astype(np.int16)[None]
            frame = AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, i * size, Fraction(1, rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def copy(path: Path, to: Path, frames: int | None = None) -> Path:
    """What the demo writes of the first frames where it draws nothing."""
    [source] = find_sources([str(path)])
    images = list(read_source(source))[:frames]
    assert images[0].timing
    file = VideoFile(to, images[0].timing, images[0].image, Sound(source, images[0].timing.start))
    for frame in images:
        file.write(frame.image, frame.seconds)
    file.close()
    return file.path


def samples(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times and values of the sound; none where there is no stream."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return np.zeros(0), np.zeros(0)
        parts = []
        for frame in container.decode(audio=0):
            values = frame.to_ndarray().astype(float)[0]
            assert frame.time is not None
            parts.append((frame.time + np.arange(len(values)) / frame.sample_rate, values))
    times, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return times, values / max(np.abs(values).max(), 1e-9)


@pytest.mark.parametrize(
    ("name", "codec", "late"),
    [
        ("a.mp4", "aac", 0.0),
        ("a.mp4", "libmp3lame", 0.0),
        ("a.mkv", "aac", 0.7),
        ("a.ts", "aac", 0.3),
        ("a.avi", "libmp3lame", 0.0),
    ],
)
def test_the_sound_is_heard_when_it_was(tmp_path, name, codec, late):
    path = copy(write(tmp_path / name, codec, late), tmp_path / "out")
    times, values = samples(path)
    assert times[np.abs(values) > 0.3].min() == pytest.approx(BEEP, abs=0.06)
    assert times.min() == pytest.approx(0, abs=0.06)
    assert times.max() == pytest.approx(2, abs=0.15)  # the clip's sound is a second longer


def test_the_sound_ends_with_the_last_frame_of_an_interrupted_run(tmp_path):
    times, _ = samples(copy(write(tmp_path / "a.mp4"), tmp_path / "out", frames=5))
    assert times.max() == pytest.approx(0.5, abs=0.06)


def test_a_sound_that_not_every_player_plays_is_left_out_in_one_line(tmp_path, caplog):
    path = copy(write(tmp_path / "a.mkv", "libopus"), tmp_path / "out")
    assert len(samples(path)[0]) == 0
    assert caplog.messages == [
        f"{tmp_path / 'a.mkv'}: its sound is left out: its codec is opus, and not AAC or MP3"
    ]


def test_a_clip_without_sound_has_none_and_nothing_is_said(tmp_path, caplog):
    silent = copy(write(tmp_path / "a.mkv", "libopus"), tmp_path / "silent")
    caplog.clear()
    assert len(samples(copy(silent, tmp_path / "out"))[0]) == 0
    assert not caplog.messages


def test_a_damaged_sound_does_not_cost_the_video(tmp_path):
    path = write(tmp_path / "a.ts")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with av.open(str(copy(path, tmp_path / "out"))) as container:
        assert sum(1 for _ in container.decode(video=0)) > 3
