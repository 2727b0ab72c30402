"""Images and videos come in upright, in RGB and 8 bits, or one line says why they do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.dataset.test_image_files import TURNS
from tools.demo.media import (
    Source,
    VideoFile,
    find_sources,
    frame_count,
    read_image,
    read_source,
    read_video,
)

RED = (250, 20, 20)


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """Gray, with red in the upper left quarter."""
    image = np.full((height, width, 3), 100, np.uint8)
    image[: height // 2, : width // 2] = RED
    return image


def is_red(color: np.ndarray) -> bool:
    return bool(np.abs(color.astype(int) - RED).max() < 40)


@pytest.fixture
def video(tmp_path):
    """Writes one of that many frames, ever lighter, by 10 each, and then dark again."""

    def make(name: str, count: int, size=(64, 48)):
        file = VideoFile(tmp_path / name, 10.0, np.zeros((*size[::-1], 3), np.uint8))
        for i in range(count):
            file.write(np.full((*size[::-1], 3), 10 * i % 250, np.uint8), i / 10)
        file.close()
        return file.path

    return make


# --- images ---------------------------------------------------------------------------


@pytest.mark.parametrize("turn", TURNS)
def test_a_image_is_turned_as_its_exif_orientation_says(tmp_path, turn):
    upright = Image.fromarray(picture())
    back = TURNS[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = upright if back is None else upright.transpose(back)
    stored.save(tmp_path / "phone.jpg", exif=exif, quality=95, subsampling=0)
    image = read_image(tmp_path / "phone.jpg")
    assert image.shape == (48, 64, 3)
    assert is_red(image[12, 16])
    assert not is_red(image[12, 48])
    assert not is_red(image[36, 16])


@pytest.mark.parametrize(
    ("stored", "color"),
    [
        (np.full((5, 6), 200, np.uint8), (200, 200, 200)),
        (np.full((5, 6), 200 * 256, np.uint16), (200, 200, 200)),
        (np.full((5, 6, 3), (1, 2, 3), np.uint8) * 20, (60, 40, 20)),
        (np.full((5, 6, 3), (1, 2, 3), np.uint16) * 20 * 256, (60, 40, 20)),
        (np.full((5, 6, 4), (20, 40, 60, 255), np.uint8), (60, 40, 20)),
        (np.full((1, 1, 3), (20, 40, 60), np.uint8), (60, 40, 20)),
    ],
    ids=["gray", "gray of 16 bits", "color", "color of 16 bits", "color and alpha", "one pixel"],
)
def test_a_image_of_any_depth_is_8_bit_rgb(tmp_path, stored, color):
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert image.shape == (*stored.shape[:2], 3)
    assert np.abs(image.astype(int) - color).max() <= 1


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jpg is not a readable image"):
        read_image(tmp_path / "a.jpg")


def test_a_image_that_has_gone_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*a\.jpg: No such file"):
        read_image(tmp_path / "a.jpg")


# --- inputs -----------------------------------------------------------------------------


def names(*inputs: object) -> list[str]:
    return [source.name.rsplit("/")[-1] for source in find_sources([str(i) for i in inputs])]


def test_a_folder_gives_images_and_videos_by_name_and_leaves_the_rest(tmp_path):
    for name in ("b.JPG", "a.png", "c.mp4", "notes.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert names(tmp_path) == ["a.png", "b.JPG", "c.mp4"]
    assert [source.is_video for source in find_sources([str(tmp_path)])] == [False, False, True]


def test_a_pattern_gives_what_it_matches_in_order(tmp_path):
    for name in ("b.jpg", "a.jpg", "c.png"):
        (tmp_path / name).touch()
    assert names(tmp_path / "*.jpg", tmp_path / "c.png") == ["a.jpg", "b.jpg", "c.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    assert names(tmp_path / "a[1].jpg") == ["a[1].jpg"]


def test_a_number_is_a_camera_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_sources(["0"]) == [Source("camera 0", 0, True)]
    (tmp_path / "0").touch()
    assert find_sources(["0"])[0].location == tmp_path.relative_to(tmp_path) / "0"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.jpg", "there is no file or folder"),
        ("", "has no images or videos"),
        ("*.jpg", "has no images or videos"),
    ],
)
def test_an_input_that_means_nothing_is_named(tmp_path, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        find_sources([str(tmp_path / given)])
    assert given in str(caught.value)


# --- videos -----------------------------------------------------------------------------


def test_a_video_gives_its_frames_their_numbers_and_times(video):
    [source] = find_sources([str(video("a", 5))])
    frames = list(read_video(source))
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5]
    assert [frame.seconds for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert [frame.fps for frame in frames] == [10.0] * 5
    for i, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - 10 * i).max() < 8
    assert frame_count(source) == 5


def test_colors_of_a_video_come_back_as_they_were(tmp_path):
    file = VideoFile(tmp_path / "a", 10.0, picture())
    file.write(picture(), 0.0)
    file.close()
    [frame] = read_source(find_sources([str(file.path)])[0])
    assert is_red(frame.image[12, 16])


@pytest.mark.parametrize("content", [b"", b"not a video", b"\0\0\0\x20ftypisom" + bytes(100)])
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    [source] = find_sources([str(tmp_path / "a.mp4")])
    with pytest.raises(ValueError, match=r"a\.mp4 has no readable frames"):
        list(read_source(source))


def test_a_video_that_is_cut_off_is_reported(video, tmp_path, caplog):
    path = video("a", 60, (320, 240))
    whole = path.read_bytes()
    index = whole.index(b"moov") - 4
    body = bytearray(whole)
    body[index // 2 : index] = bytes(index - index // 2)  # frames are gone, the index is there
    path.write_bytes(body)
    frames = list(read_source(find_sources([str(path)])[0]))
    assert len(frames) < 60
    assert f"ends after {len(frames)} of 60 frames" in caplog.text


def test_a_video_is_whole_once_it_is_closed_and_frames_last_until_their_time(tmp_path):
    file = VideoFile(tmp_path / "slow", 10.0, picture())
    for seconds in (0.0, 0.1, 0.5, 0.52):  # a camera that came to fewer images than it gives
        file.write(picture(), seconds)
    file.close()
    assert frame_count(find_sources([str(file.path)])[0]) == 7


def test_a_frame_of_another_size_is_fitted(tmp_path):
    file = VideoFile(tmp_path / "a", 10.0, picture())
    file.write(picture(), 0.0)
    file.write(picture(128, 20), 0.1)
    file.close()
    frames = list(read_source(find_sources([str(file.path)])[0]))
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 2


def test_a_video_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot write the video .*none/a"):
        VideoFile(tmp_path / "none/a", 10.0, picture())


class Camera:
    """Number 0 gives three images, no other is there; it knows nothing of itself."""

    def __init__(self, number: int) -> None:
        self.number, self.left = number, 3

    def read(self):
        if not self.left or self.number:
            return False, None
        self.left -= 1
        return True, picture()

    def get(self, key: int) -> float:
        return 0.0

    def set(self, key: int, value: float) -> bool:
        return False

    def release(self) -> None:
        pass


def test_a_camera_gives_frames_at_the_time_they_come_until_it_is_unplugged(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    [source] = find_sources(["0"])
    frames = list(read_video(source))
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert 0 <= frames[0].seconds < frames[1].seconds < frames[2].seconds
    assert frames[0].fps > 0
    assert frame_count(source) is None


def test_a_camera_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with pytest.raises(ValueError, match="camera 7 has no readable frames"):
        list(read_video(find_sources(["7"])[0]))
