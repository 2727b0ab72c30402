"""Videos are read and written with their times, colors, orientation and shape, whatever they are.

`write` makes clips as phones and cameras do; VideoFile writes what the demo draws.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from lib.utils import cli
from lib.utils.files import WriteError
from tests.helpers import full_disk
from tools.demo import video as reader
from tools.demo import writer
from tools.demo.media import Frame, Timing, find_sources
from tools.demo.reading import read_source
from tools.demo.video import Clock, frame_count, turned
from tools.demo.writer import VideoFile

RED, GREEN, BLUE = (230, 30, 40), (40, 200, 60), (30, 50, 210)
TEN = Timing.of(10)


def scene(width: int = 64, height: int = 48) -> np.ndarray:
    """Red, green, blue and gray quarters: no turn or flip looks like another one."""
    image = np.full((height, width, 3), 100, np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    return image


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Coding(NamedTuple):
    """How a clip is stored."""

    codec: str = "libx264"
    pixels: str = "yuv420p"
    matrix: Colorspace | None = Colorspace.ITU601  # None: the video does not name it
    full_range: bool = False
    options: dict[str, str] = {"preset": "ultrafast", "crf": "10"}


H264 = Coding()


@contextlib.contextmanager
def same_priority() -> Iterator[None]:
    """A context that restores this thread's scheduling.

    SVT-AV1, started by root, gives the thread that calls it the highest real-time priority. The
    tests after it in this process, and the browser that one starts, would take the cores from all
    other processes.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def write(
    path: Path,
    images: Sequence[np.ndarray],
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 10),
    coding: Coding = H264,
    **attributes: Any,
) -> Path:
    """A clip of `images`; attributes: `matrix` of the display, `aspect` of its pixels."""
    with same_priority(), av.open(f"file:{path}", "w") as container:
        height, width = images[0].shape[:2]
        stream = container.add_stream(
            coding.codec,
            rate=10,
            options=dict(coding.options),
            width=width,
            height=height,
            time_base=time_base,
        )
        context = stream.codec_context
        context.pix_fmt = coding.pixels
        color_range = ColorRange.JPEG if coding.full_range else ColorRange.MPEG
        if coding.matrix is not None:
            context.colorspace = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}[coding.matrix]
            context.color_range = color_range
        context.sample_aspect_ratio = attributes.get("aspect", 1)
        if "matrix" in attributes:
            stream.set_display_matrix(attributes["matrix"])
        for number, image in enumerate(images):
            frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=coding.pixels,
                src_color_range=ColorRange.JPEG,
                dst_color_range=color_range,
                dst_colorspace=coding.matrix or Colorspace.ITU601,
            )
            frame.pts, frame.time_base = pts[number] if pts else number, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path: Path) -> list[Frame]:
    [source] = find_sources([str(path)])
    return list(read_source(source))


def copy(path: Path, to: Path) -> Path:
    """What the demo writes where it draws nothing."""
    frames = read(path)
    assert frames[0].timing
    file = VideoFile(to, frames[0].timing, frames[0].image)
    for frame in frames:
        file.write(frame.image, frame.seconds)
    file.close()
    return file.path


def assert_alike(image: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """The mean colors of the four quarters, away from their edges."""
    assert image.shape == wanted.shape
    height, width = image.shape[0] // 2, image.shape[1] // 2
    for y in (0, height):
        for x in (0, width):
            window = np.s_[y + 4 : y + height - 4, x + 4 : x + width - 4]
            means = [part[window].mean(axis=(0, 1)) for part in (image, wanted)]
            assert np.abs(means[0] - means[1]).max() < tolerance


@pytest.fixture
def clip(tmp_path):
    """Writes a clip of that many frames, ever lighter by 10 each."""

    def make(count: int, size: tuple[int, int] = (64, 48)) -> Path:
        file = VideoFile(tmp_path / "clip", TEN, np.zeros((*size[::-1], 3), np.uint8))
        for i in range(count):
            file.write(np.full((*size[::-1], 3), 10 * i % 250, np.uint8), i / 10)
        file.close()
        return file.path

    return make


# --- frames and times -------------------------------------------------------------------


def test_a_video_gives_its_frames_their_numbers_and_times(clip):
    frames = read(path := clip(5))
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5]
    assert [frame.seconds for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert {frame.timing for frame in frames} == {frames[0].timing}
    assert frames[0].timing.fps == 10
    for i, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - 10 * i).max() < 4
    assert frame_count(find_sources([str(path)])[0]) == 5


VARIABLE = [0, 3000, 3003, 9000, 9001, 90_000, 450_000]  # 1/90000 s, as phones count


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_times_of_a_variable_frame_rate_are_kept(tmp_path, suffix):
    ticks, base = {
        ".mp4": (VARIABLE, Fraction(1, 90_000)),
        ".mkv": ([0, 33, 67, 68, 500, 4000], Fraction(1, 1000)),
        ".avi": (list(range(6)), Fraction(1001, 30_000)),
    }[suffix]
    coding = Coding("mpeg4", options={}) if suffix == ".avi" else H264
    given = write(tmp_path / f"in{suffix}", [scene()] * len(ticks), ticks, base, coding)
    expected = [float(tick * base) for tick in ticks]
    assert [frame.seconds for frame in read(given)] == pytest.approx(expected, abs=1e-9)
    written = read(copy(given, tmp_path / "out"))
    assert [frame.seconds for frame in written] == pytest.approx(expected, abs=1e-9)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration >= expected[-1] * 1e6  # players show the last frame, too


def test_an_avi_of_reordered_frames_keeps_its_times(tmp_path):
    """AVI stores no times of display, and B-frames are stored after the frame that they precede."""
    coding = H264._replace(options={"preset": "fast", "bf": "3", "b-adapt": "0"})
    ticks = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]  # two frames are missing
    images = [np.full((48, 64, 3), 15 * i, np.uint8) for i in ticks]
    frames = read(write(tmp_path / "clip.avi", images, ticks, coding=coding))
    np.testing.assert_allclose([frame.seconds for frame in frames], [i / 10 for i in ticks])
    shades = [frame.image.mean() for frame in frames]
    assert np.abs(np.subtract(shades, [15 * i for i in ticks])).max() < 5


def test_a_video_begins_with_its_first_frame(tmp_path):
    given = write(tmp_path / "in.mkv", [scene()] * 3, [500, 600, 700], Fraction(1, 1000))
    assert [frame.seconds for frame in read(given)] == [0.0, 0.1, 0.2]


@pytest.mark.parametrize(
    ("timestamps", "seconds"),
    [
        ([None, None, None], [0, 0.1, 0.2]),
        ([7, 8, None, 10], [0, 0.1, 0.2, 0.3]),
        ([None, 7, 8], [0, 0.1, 0.2]),
        ([0, 1, 1, 2, 3], [0, 0.1, 0.101, 0.2, 0.3]),
        ([0, 2, 1, 3], [0, 0.2, 0.201, 0.3]),
        ([90, 91, 0, 1], [0, 0.1, 0.2, 0.3]),  # a camera that starts again
        ([0, 1, 10**15, 10**15 + 1], [0, 0.1, 0.2, 0.3]),
        ([0, 5990], [0, 599]),
    ],
)
def test_times_always_grow(timestamps, seconds):
    clock = Clock(Timing(Fraction(1, 1000), Fraction(10)))
    ticks = [None if one is None else 100 * one for one in timestamps]
    assert [clock.seconds(pts) for pts in ticks] == pytest.approx(seconds)


def test_a_written_frame_never_comes_before_the_last_one(tmp_path):
    file = VideoFile(tmp_path / "a", Timing(Fraction(1, 1000), Fraction(30)), scene())
    for seconds in (0.0, 0.5, 0.2, 0.5004, 0.7):
        file.write(scene(), seconds)
    file.close()
    assert [frame.seconds for frame in read(file.path)] == [0.0, 0.5, 0.501, 0.502, 0.7]


@pytest.mark.parametrize("base", [Fraction(1, 10**9), Timing.of(29.97003).time_base, Fraction(1)])
def test_a_time_base_that_mp4_has_not_is_written_to_the_microsecond(tmp_path, base):
    file = VideoFile(tmp_path / "a", Timing(base, Fraction(30)), scene())
    for seconds in (0.0, 1.0, 601.0):
        file.write(scene(), seconds)
    file.close()
    assert [frame.seconds for frame in read(file.path)] == [0.0, 1.0, 601.0]


def test_one_frame_lasts_as_long_as_the_rate_says(clip):
    with av.open(str(clip(1))) as container:
        assert container.duration == 100_000  # microseconds


# --- orientation and shape ----------------------------------------------------------------

ONE = 1 << 16
TURNS = {  # a, b, c, d of the display matrix -> the stored image, as it is shown
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),  # a phone held upright
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda image: np.transpose(image, (1, 0, 2)),
    (0, -1, -1, 0): lambda image: np.transpose(image[::-1, ::-1], (1, 0, 2)),
}


def display_matrix(a: int, b: int, c: int, d: int) -> list[int]:
    return [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]


@pytest.mark.parametrize("turn", TURNS)
def test_every_display_matrix_shows_the_image_upright(turn):
    image = noise(7, 5)
    shown = turned(image, np.array(display_matrix(*turn), np.int32))
    assert (shown == TURNS[turn](image)).all()


def test_a_phone_clip_is_upright_when_read_and_written(tmp_path):
    upright = scene(48, 64)
    matrix = display_matrix(0, 1, -1, 0)
    stored = np.rot90(upright)
    given = write(
        tmp_path / "phone.mp4",
        [np.ascontiguousarray(stored)] * 7,
        VARIABLE,
        Fraction(1, 90_000),
        matrix=matrix,
    )
    with av.open(str(given)) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (64, 48, -90)
    assert_alike(read(given)[0].image, upright, 4)
    again = read(copy(given, tmp_path / "out"))
    assert_alike(again[0].image, upright, 5)
    assert [frame.seconds for frame in again] == [tick / 90_000 for tick in VARIABLE]


@pytest.mark.parametrize("turn", [(1, 0, 0, 1), (0, 1, -1, 0)], ids=["as stored", "turned"])
def test_the_shape_of_pixels_is_kept(tmp_path, turn):
    given = write(
        tmp_path / "in.mp4", [scene()], aspect=Fraction(4, 3), matrix=display_matrix(*turn)
    )
    out = copy(given, tmp_path / "out")
    with av.open(str(out)) as container:
        wanted = Fraction(4, 3) if turn[0] else Fraction(3, 4)
        assert container.streams.video[0].sample_aspect_ratio == wanted


@pytest.mark.parametrize("size", [(63, 48), (64, 47), (63, 47), (1, 1), (2, 2), (3, 65)])
def test_an_odd_size_gets_one_more_pixel_at_the_right_or_below(tmp_path, size):
    image = noise(*size)
    file = VideoFile(tmp_path / "a", TEN, image)
    file.write(image, 0.0)
    file.close()
    [frame] = read(file.path)
    width, height = size
    assert frame.image.shape == (height + height % 2, width + width % 2, 3)
    with av.open(str(file.path)) as container:
        assert container.streams.video[0].format.name == "yuv420p"


def test_odd_sizes_are_read(tmp_path):
    coding = Coding("ffv1", pixels="bgr0", matrix=None, options={})
    image = noise(63, 47)
    given = write(tmp_path / "in.mkv", [image], coding=coding)
    assert (read(given)[0].image == image).all()


def test_a_frame_of_another_size_is_fitted(tmp_path):
    file = VideoFile(tmp_path / "a", TEN, scene())
    file.write(scene(), 0.0)
    file.write(scene(128, 20), 0.1)
    file.close()
    assert [frame.image.shape for frame in read(file.path)] == [(48, 64, 3)] * 2


# --- colors -----------------------------------------------------------------------------

CODINGS = {
    "BT.601": H264,
    "BT.709": Coding(matrix=Colorspace.ITU709),
    "BT.709, full range": Coding(matrix=Colorspace.ITU709, full_range=True),
    "not named": Coding(matrix=None),
    "4:4:4": Coding(pixels="yuv444p"),
    "10 bits HEVC": Coding("libx265", "yuv420p10le", options={"x265-params": "log-level=none"}),
    "VP9": Coding("libvpx-vp9", options={"crf": "5", "b": "0", "cpu-used": "8"}),
    "10 bits AV1": Coding("libsvtav1", "yuv420p10le", options={"preset": "12", "crf": "5"}),
    "MPEG-4": Coding("mpeg4", options={"qscale": "1", "flags": "qscale"}),
}


@pytest.mark.parametrize("name", CODINGS)
def test_colors_are_those_of_the_clip_when_read_and_written(tmp_path, name):
    suffix = "mkv" if name in ("VP9", "10 bits HEVC") else "mp4"
    image = scene(128, 96)
    given = write(tmp_path / f"in.{suffix}", [image] * 2, coding=CODINGS[name])
    assert_alike(read(given)[0].image, image, 5)
    assert_alike(read(copy(given, tmp_path / "out"))[0].image, image, 5)


@pytest.mark.parametrize("height", [48, 720])
def test_a_written_video_names_its_colors_as_players_would_guess_them(tmp_path, height):
    image = scene(64, height)
    file = VideoFile(tmp_path / "a", TEN, image)
    file.write(image, 0.0)
    file.close()
    with av.open(str(file.path)) as container:
        frame = next(container.decode(video=0))
        assert frame.colorspace == (1 if height == 720 else 6)
        assert frame.color_range == ColorRange.MPEG
    assert_alike(read(file.path)[0].image, image, 5)


def test_a_gif_is_read(tmp_path):
    coding = Coding("gif", "rgb8", None, options={})
    given = write(tmp_path / "a.gif", [scene()] * 3, [0, 10, 50], Fraction(1, 100), coding)
    frames = read(given)
    assert [frame.seconds for frame in frames] == [0.0, 0.1, 0.5]
    assert_alike(frames[0].image, scene(), 40)  # of 256 colors


# --- files that are no video, or damaged ---------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a video", b"\0\0\0\x20ftypisom" + bytes(100)])
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4 has no readable frames: \w") as caught:
        read(tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)


def test_an_image_whose_name_is_that_of_a_video_is_named(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.jpg"), scene())
    (tmp_path / "a.jpg").rename(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4 has no readable frames: it is no video"):
        read(tmp_path / "a.mp4")


def test_sound_alone_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"a\.mp4 has no readable frames: it has no video"):
        read(tmp_path / "a.mp4")


def test_a_video_without_frames_is_named(tmp_path):
    write(tmp_path / "a.mp4", [scene()] * 3)
    data = (tmp_path / "a.mp4").read_bytes()
    index, frames = data.index(b"moov") - 4, data.index(b"mdat") + 4
    (tmp_path / "a.mp4").write_bytes(data[:frames] + bytes(index - frames) + data[index:])
    with pytest.raises(ValueError, match=r"a\.mp4 has no readable frames: \w"):
        read(tmp_path / "a.mp4")


def test_a_truncated_video_gives_the_frames_before_its_end(clip, caplog):
    path = clip(60, (320, 240))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    frames = read(path)
    assert 0 < len(frames) < 60
    assert f"clip.mp4 is damaged; {len(frames)} of 60 frames could be read" in caplog.text
    assert len(caplog.records) == 1


def test_damage_in_the_middle_leaves_the_frames_before_and_after(tmp_path, caplog):
    coding = Coding(options={"g": "10", "preset": "ultrafast"})
    path = write(tmp_path / "a.mp4", [noise(64, 48, i) for i in range(60)], coding=coding)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + (data.index(b"moov") - data.index(b"mdat")) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    frames = read(path)
    assert 30 < len(frames) < 60
    assert frames[-1].seconds == 5.9
    assert f"a.mp4 is damaged; {len(frames)} of 60 frames could be read" in caplog.text
    assert len(caplog.records) == 1


def test_a_whole_video_is_read_without_a_warning(clip, caplog):
    read(clip(20))
    assert not caplog.records


def test_a_video_of_too_many_pixels_is_refused_before_they_are_decoded(clip, monkeypatch):
    path = clip(1)
    monkeypatch.setattr(reader, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match=r"clip\.mp4 has no readable frames"):
        read(path)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
    ],
    ids=["playlist", "playlist of a path", "list of files"],
)
def test_a_file_cannot_name_other_files(tmp_path, text):
    secret = write(tmp_path / "secret.ts", [scene()] * 3)
    (tmp_path / "a.mp4").write_text(text.format(secret))
    with pytest.raises(ValueError, match=r"a\.mp4 has no readable frames"):
        read(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mp4", "%03d.mp4", "видео 人.mp4", "-.mp4"])
def test_any_name_is_a_file(tmp_path, name):
    copied = copy(write(tmp_path / name, [scene()] * 2), tmp_path / f"out {name}")
    assert copied.name == f"out {name}.mp4"
    assert len(read(copied)) == 2


# --- writing ----------------------------------------------------------------------------


def test_the_index_comes_before_the_frames(clip):
    data = clip(3).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_video_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(WriteError, match="cannot write the video .*none/a.mp4: No such file"):
        VideoFile(tmp_path / "none/a", TEN, scene())


def test_a_full_disk_is_reported_at_once_and_the_old_video_stays(tmp_path):
    (tmp_path / "a.mp4").write_text("old")
    file = VideoFile(tmp_path / "a", TEN, noise(64, 48))
    written = []

    def fill() -> None:
        for i in range(1000):
            file.write(noise(64, 48, i), i / 10)
            written.append(i)

    with (
        full_disk(50_000),
        pytest.raises(WriteError, match=r"cannot write the video .*a\.mp4: File too large"),
    ):
        fill()
    assert 0 < len(written) < 200
    file.close()  # nothing more to report
    assert (tmp_path / "a.mp4").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_without_an_encoder_one_line_names_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writer, "ENCODERS", ("libnone", "libother"))
    code = cli.code_of(lambda: VideoFile(tmp_path / "a", TEN, scene()) and None)
    assert code == cli.MISTAKE
    assert "none of the H.264 encoders libnone, libother" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_encoder_takes_the_place_of_a_missing_one(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "ENCODERS", ("libnone", "mpeg4"))
    file = VideoFile(tmp_path / "a", TEN, scene())
    file.write(scene(), 0.0)
    file.close()
    assert_alike(read(file.path)[0].image, scene(), 12)


# --- memory -----------------------------------------------------------------------------

STATM = Path("/proc/self/statm")


def memory() -> int:
    """Bytes of this process that are in memory."""
    return int(STATM.read_text("ascii").split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not STATM.exists(), reason="Linux tells a process its memory")
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
    images = [noise(320, 240, i) // 8 for i in range(5)]
    short, long = (write(tmp_path / f"{n}.mp4", images * n) for n in (10, 60))

    def copy_frame_by_frame(path: Path) -> None:
        frames = read_source(find_sources([str(path)])[0])
        first = next(frames)
        file = VideoFile(tmp_path / "out", first.timing or TEN, first.image)
        for frame in frames:
            file.write(frame.image, frame.seconds)
        file.close()

    copy_frame_by_frame(short)
    before = memory()
    copy_frame_by_frame(long)
    assert memory() - before < 30 * 320 * 240 * 3  # the clip has 300 frames


def test_frames_are_freed_without_a_garbage_collection(tmp_path):
    path = write(tmp_path / "a.mp4", [scene()] * 40, matrix=display_matrix(0, 1, -1, 0))
    gc.collect()
    gc.disable()
    try:
        assert sum(1 for _ in read_source(find_sources([str(path)])[0])) == 40
        assert sum(type(thing) is VideoFrame for thing in gc.get_objects()) < 5
    finally:
        gc.enable()
