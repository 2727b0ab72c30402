"""Images come in upright, in RGB and 8 bits, inputs are found, or one line says why not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from lib.utils.images import read_image
from tests.dataset.test_image_files import TURNS
from tools.demo.media import Source, find_sources

RED = (250, 20, 20)


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """Gray, with red in the upper left quarter."""
    image = np.full((height, width, 3), 100, np.uint8)
    image[: height // 2, : width // 2] = RED
    return image


def is_red(color: np.ndarray) -> bool:
    return bool(np.abs(color.astype(int) - RED).max() < 40)


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


@pytest.mark.parametrize(
    ("name", "start", "is_video"),
    [
        ("clip.MTS", b"", True),
        ("B.JPEG", b"", False),
        ("image", b"\xff\xd8\xff\xe0", False),
        ("webp", b"RIFF....WEBPVP8 ", False),
        ("avi", b"RIFF....AVI LIST", True),
        ("moved.part", b"\0\0\0 ftypisom", True),
        ("animation", b"GIF89a", True),
        ("empty", b"", True),
    ],
)
def test_a_file_is_an_image_or_a_video_by_its_ending_or_else_by_its_start(
    tmp_path, name, start, is_video
):
    (tmp_path / name).write_bytes(start)
    assert find_sources([str(tmp_path / name)])[0].is_video is is_video


def test_a_pattern_gives_what_it_matches_in_order(tmp_path):
    for name in ("b.jpg", "a.jpg", "c.png"):
        (tmp_path / name).touch()
    assert names(tmp_path / "*.jpg", tmp_path / "c.png") == ["a.jpg", "b.jpg", "c.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    assert names(tmp_path / "a[1].jpg") == ["a[1].jpg"]


def test_a_url_is_a_stream_whose_password_and_key_stay_out_of_its_name():
    [source] = find_sources(["rtsp://me:secret@camera.local:554/live/1.sdp?key=secret"])
    assert source.name == "rtsp://camera.local:554/live/1.sdp"
    assert (source.is_video, source.is_file, source.stem) == (True, False, "1")
    assert find_sources(["https://example.org"])[0].stem == "example.org"
    assert find_sources(["http://example.org/../.."])[0].stem == "stream"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "concat://a|b", "ftp://a:secret@b/c.mp4", "rtsp://", "http:///x"]
)
def test_a_url_that_is_no_stream_is_refused(url):
    with pytest.raises(ValueError, match="cannot read .*wanted one of rtsp://") as caught:
        find_sources([url])
    assert "secret" not in str(caught.value)


def test_a_number_is_a_camera_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_sources(["0"]) == [Source("camera 0", 0, True)]
    assert find_sources(["/dev/video12"]) == [Source("camera 12", 12, True)]
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
