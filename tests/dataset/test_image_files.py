"""Image files are read by one rule, upright and as annotated, or named when they cannot be."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lib.dataset import image_files
from lib.dataset.checks.faults import Split
from lib.dataset.checks.images import check_image_files, list_files, note_turned
from lib.dataset.image_files import ImageFiles, ImageRecord, ReadError
from lib.keypoints import COCO
from tests.helpers import read_records

TURNS = {  # EXIF orientation -> how a camera stores what is upright
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def upright() -> np.ndarray:
    """(48, 64, 3): no two of its turns are equal."""
    rows, columns = np.mgrid[:48, :64]
    return np.stack([rows * 5, columns * 3, rows + columns], axis=2).astype(np.uint8)


def save_turned(path: Path, orientation: int) -> None:
    """Write `upright` as a camera held like that, without loss."""
    stored, turn = Image.fromarray(upright()), TURNS[orientation]
    stored = stored if turn is None else stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)


def one(file_name: object = "1.png", width: object = 64, height: object = 48) -> ImageRecord:
    nobody = np.zeros((0, 17, 3), np.float32), np.zeros((0, 4), np.float32)
    return ImageRecord(1, file_name, width, height, *nobody, ())  # pyright: ignore


def problem_of(files: ImageFiles, record: ImageRecord) -> str:
    with pytest.raises(ReadError) as caught:
        files.read(record)
    message = str(caught.value)
    assert message.startswith("image 1: ")
    assert len(message.splitlines()) == 1
    message.encode()  # no lone surrogate
    return message


@pytest.fixture
def folder(coco_root) -> Path:
    return coco_root / "images/val2017"


@pytest.fixture
def records(coco_root):
    return read_records(coco_root / "annotations/person_keypoints_val2017.json", COCO)


@pytest.mark.parametrize("inside", ["", "val2017/"])
def test_an_archive_gives_the_images_of_its_folder(folder, records, tmp_path, inside):
    with zipfile.ZipFile(tmp_path / "val2017.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, inside + path.name)
    packed, plain = ImageFiles(tmp_path / "val2017.zip"), ImageFiles(folder)
    for record in records:
        np.testing.assert_array_equal(packed.read(record), plain.read(record))
    # A loader's worker opens the archive itself.
    again = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(again.read(records[0]), plain.read(records[0]))


def test_channels_are_red_green_blue(tmp_path, records):
    red = np.zeros((96, 128, 3), np.uint8)
    red[..., 2] = 255  # cv2 writes blue, green, red
    cv2.imwrite(str(tmp_path / "red.png"), red)
    image = ImageFiles(tmp_path).read(records[0]._replace(file_name="red.png"))
    assert (image == (255, 0, 0)).all()


def test_a_gray_image_has_three_channels(tmp_path, records):
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((96, 128), 77, np.uint8))
    image = ImageFiles(tmp_path).read(records[0]._replace(file_name="gray.png"))
    assert image.shape == (96, 128, 3)
    assert (image == 77).all()


def test_a_header_that_claims_a_huge_image_is_an_unreadable_image(tmp_path, records):
    _, png = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))
    side = (100_000).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(png[:16].tobytes() + side + side + png[24:].tobytes())
    with pytest.raises(ReadError, match="huge.png"):
        ImageFiles(tmp_path).read(records[0]._replace(file_name="huge.png"))


# --- orientation and size ---------------------------------------------------------------


@pytest.mark.parametrize("orientation", TURNS)
def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path, orientation):
    save_turned(tmp_path / "1.png", orientation)
    np.testing.assert_array_equal(ImageFiles(tmp_path).read(one()), upright())


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_stored_pixels_are_told_to_be_so(tmp_path, orientation):
    save_turned(tmp_path / "1.png", orientation)
    problem = problem_of(ImageFiles(tmp_path), one(width=48, height=64))
    assert "1.png: the image is 64 x 48, annotated as 48 x 64, its size before" in problem
    assert "remove that orientation from the file, or annotate the upright image" in problem


@pytest.mark.parametrize("size", [(128, 96), (32, 24), (48, 64), (None, "x"), (64.5, 48)])
def test_an_image_of_another_size_than_annotated_is_named(tmp_path, size):
    save_turned(tmp_path / "1.png", 1)
    problem = problem_of(ImageFiles(tmp_path), one(width=size[0], height=size[1]))
    assert f"1.png: the image is 64 x 48, annotated as {size[0]} x {size[1]}: it was" in problem


# --- files that are none ----------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    (tmp_path / "1.png").write_bytes(content)
    problem = problem_of(ImageFiles(tmp_path), one())
    assert problem == f"image 1: cannot read {tmp_path}/1.png: the file is no image"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.png", "No such file or directory"),
        ("fifo", "the file is no regular file"),
        ("/dev/zero", "the file is no regular file"),
        ("folder", "directory"),
        ("fifo/1.png", "Not a directory"),
        ("1.png" * 100, "File name too long"),
        ("", "file_name is '', which is no file's name"),
        (".", "directory"),
        ("a\0b", r"file_name is 'a\x00b', which"),
        ("\ud800.png", r"file_name is '\ud800.png', which"),
        (5, "file_name is 5, which"),
        (None, "file_name is None, which"),
        (["1.png"], "file_name is ['1.png'], which"),
        ({"a": "b" * 1000}, "file_name is {'a': 'bbb"),
    ],
)
def test_a_name_of_no_file_is_named_and_nothing_hangs(tmp_path, name, reason):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    problem = problem_of(ImageFiles(tmp_path), one(name))
    assert problem.startswith("image 1: cannot read ")
    assert reason in problem.lower() if reason == "directory" else reason in problem


def test_a_file_of_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_BYTES", 1000)
    (tmp_path / "1.png").write_bytes(bytes(1001))
    assert "the file has more than 1000 bytes" in problem_of(ImageFiles(tmp_path), one())


# --- archives ---------------------------------------------------------------------------

LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def archive_of(folder: Path, spoil: str) -> ImageFiles:
    """An archive of a good 0.png and a spoiled 1.png."""
    save_turned(folder / "0.png", 1)
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "0.png", "0.png")
        archive.write(folder / "0.png", "1.png")
    data = bytearray(path.read_bytes())
    local, central = data.rindex(LOCAL), data.rindex(CENTRAL)
    if spoil == "deflate":
        data[local + 40 : local + 60] = b"\xff" * 20
    if spoil == "encrypted":
        data[local + 6] |= 1
        data[central + 8] |= 1
    if spoil == "unknown method":
        data[local + 8] = data[central + 10] = 99
    if spoil == "checksum":
        data[central + 16] ^= 1
    if spoil == "offset":
        data[central + 42] ^= 1
    if spoil == "huge":
        data[central + 24 : central + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(data)
    return ImageFiles(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("deflate", "the file is damaged in the archive: Error -3 while decompressing"),
        ("encrypted", "the file is encrypted in the archive"),
        ("unknown method", "compression method is not supported"),
        ("checksum", "Bad CRC-32"),
        ("offset", "Bad magic number"),
        ("huge", "the file has more than 1073741824 bytes"),
    ],
)
def test_a_spoiled_member_of_an_archive_is_named_and_costs_itself_only(tmp_path, spoil, reason):
    files = archive_of(tmp_path, spoil)
    problem = problem_of(files, one())
    assert problem.startswith(f"image 1: cannot read {tmp_path}/images.zip@1.png: ")
    assert reason in problem
    np.testing.assert_array_equal(files.read(one("0.png")), upright())


def test_a_file_missing_from_an_archive_is_named(tmp_path):
    problem = problem_of(archive_of(tmp_path, ""), one("2.png"))
    assert problem.endswith("images.zip@2.png: the archive has no such file")


def test_any_damage_of_an_archive_is_a_value_error(tmp_path):
    """Bytes changed at random, seeded: a ValueError, or the same pixels."""
    whole = archive_of(tmp_path, "").path.read_bytes()
    path, rng = tmp_path / "images.zip", np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            np.testing.assert_array_equal(ImageFiles(path).read(one()), upright())


def test_what_is_no_archive_or_folder_is_told_at_the_start(tmp_path):
    (tmp_path / "text.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "folder.zip").mkdir()
    os.mkfifo(tmp_path / "fifo.zip")
    (tmp_path / "file").touch()
    for name, message in (
        ("text.zip", "is no zip archive: File is not a zip file"),
        ("folder.zip", "is no archive"),
        ("fifo.zip", "is no archive"),
        ("none.zip", "does not exist"),
        ("file", "is no folder"),
        ("none", "does not exist"),
    ):
        with pytest.raises(ValueError, match=f"the image .* {tmp_path / name} {message}"):
            ImageFiles(tmp_path / name)


# --- checks of a data set ---------------------------------------------------------------


def test_the_checks_name_what_reading_refuses_and_count_what_is_turned(tmp_path):
    for number, orientation in enumerate((1, 3, 6, 6)):
        save_turned(tmp_path / f"{number}.png", orientation)
    (tmp_path / "4.png").write_text("no image")
    sizes = {0: (64, 48), 1: (64, 48), 2: (48, 64), 3: (64, 48), 4: (64, 48), 5: (64, 48)}
    images = {
        i: {"id": i, "file_name": f"./{i}.png", "width": width, "height": height}
        for i, (width, height) in sizes.items()
    }
    files, none = ImageFiles(tmp_path), Path("annotations.json")
    split = Split("val", COCO, none, {}, files, list_files(tmp_path))
    faults = check_image_files(split, images, decode=True, workers=1, tick=lambda: None)
    assert [(fault.kind, fault.where[:7]) for fault in faults] == [
        ("missing image", "image 5"),
        ("wrong size", "image 2"),
        ("unreadable image", "image 4"),
    ]
    assert "EXIF orientation" in faults[1].what
    [line] = note_turned(split, images)
    assert line.startswith("3 images have an EXIF orientation and are turned upright")
    assert "the first is image 1," in line
