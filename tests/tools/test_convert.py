"""Files of other annotation tools, made as these write them, become the data set that they say."""

from __future__ import annotations

import base64
import csv
import importlib
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import pytest
import yaml
from PIL import Image

from lib.config.joints import read_joints
from lib.keypoints import KeypointSpec
from tests.helpers import YAMLS, Result, read_records
from tests.test_scripts import assert_one_line
from tools import check_data
from tools.convert import __main__ as convert

JOINTS = ("nose", "L_ear", "R_ear", "tail")
LIMBS = ((0, 3), (1, 2))


class Animal(NamedTuple):
    box: tuple[float, float, float, float]
    joints: tuple[tuple[float, float, int], ...]  # of JOINTS; 0, 0, 0: not labelled


class Scene(NamedTuple):
    name: str
    width: int
    height: int
    animals: tuple[Animal, ...]


FIRST = Animal((10, 12, 40, 60), ((20.5, 15.25, 2), (12, 20, 1), (30.25, 22, 2), (45, 70.5, 2)))
SECOND = Animal((90, 20.5, 50, 40), ((100, 25, 2), (0, 0, 0), (110.5, 30, 2), (130, 55.5, 1)))
SCENES = (
    Scene("a.jpg", 160, 120, (FIRST, SECOND)),
    Scene("b.jpg", 160, 120, ()),
    Scene("c.jpg", 96, 128, (FIRST,)),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """The folder of the images of SCENES."""
    folder = tmp_path_factory.mktemp("images")
    for number, scene in enumerate(SCENES):
        size = scene.height // 8, scene.width // 8, 3
        pixels = np.random.default_rng(number).integers(0, 255, size).astype(np.uint8)
        Image.fromarray(pixels).resize((scene.width, scene.height)).save(folder / scene.name)
    return folder


def text_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def copy_images(images: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for scene in SCENES:
        (folder / scene.name).write_bytes((images / scene.name).read_bytes())


# --- the tools' files ---------------------------------------------------------------------


def yolo(folder: Path, images: Path, numbers: int = 3, **keys: Any) -> list[Any]:
    """Ultralytics 8.4: dataset.yaml, images/train, labels/train."""
    copy_images(images, folder / "images/train")
    for scene in SCENES:
        lines = []
        for box, joints in scene.animals:
            x, y, width, height = box
            values = [x + width / 2, y + height / 2, width, height]
            parts = [v / (scene.width, scene.height)[i % 2] for i, v in enumerate(values)]
            words = [f"{part:.6f}" for part in parts]
            for x, y, visibility in joints:
                words += [f"{x / scene.width:.6f}", f"{y / scene.height:.6f}"]
                words += [str(visibility)] * (numbers - 2)
            lines.append(" ".join(["0", *words]) + "\n")
        if lines:  # Ultralytics writes no file for an image without objects
            text_file(folder / f"labels/train/{Path(scene.name).stem}.txt", "".join(lines))
    tree = {
        "path": ".",
        "train": "images/train",
        "kpt_shape": [len(JOINTS), numbers],
        "flip_idx": [0, 2, 1, 3],
        "names": {0: "mouse"},
        "kpt_names": {0: list(JOINTS)},
        **keys,
    }
    tree = {key: value for key, value in tree.items() if value is not None}
    return ["yolo", text_file(folder / "dataset.yaml", yaml.safe_dump(tree))]


def labelme(folder: Path, images: Path, embed: bool = False) -> list[Any]:
    """LabelMe 5.5: a JSON file next to each image; the image in it, unless switched off."""
    for scene in SCENES:
        data = (images / scene.name).read_bytes()
        shapes = []
        for group, (box, joints) in enumerate(scene.animals, start=1):
            corners = [[box[0] + box[2], box[1]], [box[0], box[1] + box[3]]]  # as it was dragged
            shapes.append(labelme_shape("mouse", corners, group, "rectangle"))
            for joint, (x, y, visibility) in zip(JOINTS, joints, strict=True):
                if visibility:
                    flags = {"occluded": visibility == 1}
                    shapes.append(labelme_shape(joint, [[x, y]], group, "point", flags))
        tree = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": scene.name,
            "imageData": base64.b64encode(data).decode() if embed else None,
            "imageHeight": scene.height,
            "imageWidth": scene.width,
        }
        path = folder / Path(scene.name).with_suffix(".json")
        text_file(path, json.dumps(tree, indent=2))
        if not embed:
            path.with_name(scene.name).write_bytes(data)
    return ["labelme", folder]


def labelme_shape(label: str, points: list, group: int | None, kind: str, flags=None) -> dict:
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": flags or {},
        "mask": None,
    }


def cvat(folder: Path, images: Path) -> list[Any]:
    """CVAT 2 "CVAT for images 1.1", exported with images; boxes are grouped with skeletons."""
    svg = [
        f'<line data-type="edge" data-node-from="{a + 1}" data-node-to="{b + 1}"></line>'
        for a, b in LIMBS
    ]
    svg += [
        f'<circle r="1.5" data-type="element node" data-element-id="{number}" '
        f'data-node-id="{number}" data-label-name="{joint}"></circle>'
        for number, joint in enumerate(JOINTS, start=1)
    ]
    labels = (
        f"<label><name>mouse</name><type>skeleton</type><svg>{escape(''.join(svg))}</svg></label>"
    )
    for joint in JOINTS:
        labels += f"<label><name>{joint}</name><type>points</type><parent>mouse</parent></label>"
    body = ""
    for number, scene in enumerate(SCENES):
        size = f'width="{scene.width}" height="{scene.height}"'
        body += f'<image id="{number}" name="{scene.name}" {size}>\n'
        for group, (box, joints) in enumerate(scene.animals, start=1):
            x, y, width, height = box
            body += f'<box label="body" source="manual" occluded="0" xtl="{x:.2f}" ytl="{y:.2f}" '
            body += f'xbr="{x + width:.2f}" ybr="{y + height:.2f}" group_id="{group}"></box>\n'
            body += f'<skeleton label="mouse" source="manual" z_order="0" group_id="{group}">\n'
            for joint, (x, y, visibility) in reversed(list(zip(JOINTS, joints, strict=True))):
                outside, occluded = int(visibility == 0), int(visibility == 1)
                body += f'<points label="{joint}" source="manual" outside="{outside}" '
                body += f'occluded="{occluded}" points="{x:.2f},{y:.2f}"></points>\n'
            body += "</skeleton>\n"
        body += "</image>\n"
    copy_images(images, folder / "images")
    text = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>
{body}</annotations>
"""
    return ["cvat", text_file(folder / "annotations.xml", text)]


def label_studio(folder: Path, images: Path, relations: bool = False) -> list[Any]:
    """Label Studio 1.x: JSON export of uploaded images; joints below boxes, or related to them."""
    tasks = []
    for number, scene in enumerate(SCENES, start=1):
        result: list[dict[str, Any]] = []
        common = {
            "original_width": scene.width,
            "original_height": scene.height,
            "image_rotation": 0,
        }
        for place, (box, joints) in enumerate(scene.animals):
            parts = [100 * v / (scene.width, scene.height)[i % 2] for i, v in enumerate(box)]
            value = dict(zip(("x", "y", "width", "height"), parts, strict=True)) | {"rotation": 0}
            region = {"id": f"box{place}", "type": "rectanglelabels", "to_name": "img", **common}
            result.append(region | {"value": value | {"rectanglelabels": ["mouse"]}})
            for joint, (x, y, visibility) in zip(JOINTS, joints, strict=True):
                if not visibility:
                    continue
                name = f"{place}{joint}"
                value = {"x": 100 * x / scene.width, "y": 100 * y / scene.height, "width": 0.4}
                region = {"id": name, "type": "keypointlabels", "to_name": "img", **common}
                region["value"] = value | {"keypointlabels": [joint]}
                if relations:
                    ends = {"from_id": name, "to_id": f"box{place}", "direction": "right"}
                    result.append({"type": "relation", **ends})
                else:
                    region["parentID"] = f"box{place}"
                result.append(region)
                if visibility == 1:
                    value = {"x": 1, "choices": ["Occluded"]}
                    result.append({"id": name, "type": "choices", "value": value})
        data = {"img": f"/data/upload/1/0a1b2c3d-{scene.name}"}
        annotation = {"id": number, "was_cancelled": False, "result": result}
        tasks.append({"id": number, "data": data, "annotations": [annotation], "predictions": []})
    path = text_file(folder / "project-1-at-2025-01-01-00-00-0a1b2c3d.json", json.dumps(tasks))
    return ["label-studio", path, "--images", images]


def deeplabcut(folder: Path, images: Path, cells: int = 3) -> list[Any]:
    """A multi-animal project of DeepLabCut 2.3: config.yaml, labeled-data/video/CollectedData."""
    columns = [(f"mouse{i}", joint, axis) for i in (1, 2) for joint in JOINTS for axis in "xy"]
    columns += [("single", "corner", "x"), ("single", "corner", "y")]
    text = io.StringIO()
    writer, gap = csv.writer(text), [""] * (cells - 1)
    writer.writerow(["scorer", *gap, *["Ann"] * len(columns)])
    for row, key in enumerate(("individuals", "bodyparts", "coords")):
        writer.writerow([key, *gap, *[column[row] for column in columns]])
    for scene in SCENES:
        name = ["labeled-data", "video", scene.name]
        values: list[Any] = []
        for animal in (*scene.animals, None, None)[:2]:
            for x, y, visibility in animal.joints if animal else [(0, 0, 0)] * len(JOINTS):
                values += [x, y] if visibility else ["", ""]
        writer.writerow([*(name if cells == 3 else ["/".join(name)]), *values, 5.0, 5.0])
    copy_images(images, folder / "labeled-data/video")
    text_file(folder / "labeled-data/video/CollectedData_Ann.csv", text.getvalue())
    skeleton = [[JOINTS[a], JOINTS[b]] for a, b in LIMBS]
    config = {"Task": "mice", "scorer": "Ann", "bodyparts": "MULTI!", "skeleton": skeleton}
    text_file(folder / "config.yaml", yaml.safe_dump(config))
    return ["deeplabcut", folder]


# --- conversions --------------------------------------------------------------------------


@pytest.fixture
def converted(call_tool, tmp_path, images) -> Callable[..., Result]:
    """Convert what a function above makes; the data set is tmp_path/out."""

    def run(make: Callable[..., list[Any]], *flags: Any, **options: Any) -> Result:
        args = make(tmp_path / "source", images, **options)
        return call_tool(convert.main, *args, "--out", tmp_path / "out", *flags)

    return run


def spec_of(out: Path) -> KeypointSpec:
    return read_joints(str(out / "joints.yaml"), "DATASET.DATASET")


def compare(out: Path, hidden: bool = True, boxes: bool = True, split: str = "train") -> None:
    """The data set, read as in training, is SCENES."""
    spec = spec_of(out)
    records = read_records(out / f"annotations/{split}.json", spec)
    assert len(records) == len(SCENES)
    for record, scene in zip(records, SCENES, strict=True):
        assert Path(record.file_name).stem == Path(scene.name).stem
        assert (out / "images" / split / record.file_name).is_file()
        assert (record.width, record.height) == (scene.width, scene.height)
        joints = np.array([one.joints for one in scene.animals]).reshape(-1, len(JOINTS), 3)
        if not hidden:
            joints[..., 2] = 2 * (joints[..., 2] > 0)
        np.testing.assert_allclose(record.joints, joints, atol=2e-3)
        if boxes:
            expected = np.array([one.box for one in scene.animals]).reshape(-1, 4)
            np.testing.assert_allclose(record.boxes, expected, atol=2e-3)


MADE = {
    "yolo": (yolo, {}, True, True),
    "labelme": (labelme, {}, True, True),
    "labelme, with images in JSON": (labelme, {"embed": True}, True, True),
    "cvat": (cvat, {}, True, True),
    "label-studio": (label_studio, {}, True, True),
    "label-studio, relations": (label_studio, {"relations": True}, True, True),
    "deeplabcut": (deeplabcut, {}, False, False),
    "deeplabcut 2.1": (deeplabcut, {"cells": 1}, False, False),
}


@pytest.mark.parametrize("made", MADE)
def test_a_data_set_is_what_the_tool_s_files_say(made, converted, call_tool, tmp_path):
    make, options, hidden, boxes = MADE[made]
    done = converted(make, **options)
    assert (done.code, done.err) == (0, "")
    assert "train: 3 images, 3 objects" in done.out
    out = tmp_path / "out"
    compare(out, hidden, boxes)
    spec = spec_of(out)
    assert spec.joints == JOINTS
    assert spec.flips == (("L_ear", "R_ear"),)
    if make in (cvat, deeplabcut):
        assert spec.limbs == tuple((JOINTS[a], JOINTS[b]) for a, b in LIMBS)
    opts = ["DATASET.ROOT", out, "DATASET.DATASET", out / "joints.yaml", "DATASET.TEST", "train"]
    done = call_tool(check_data.main, "--cfg", YAMLS["animal"], *opts, "WORKERS", "0")
    assert done.code == 0
    assert "0 broken or missing" in done.out


def test_the_data_set_converts_to_itself_again_and_keeps_the_user_s_joints(converted, tmp_path):
    assert converted(cvat).code == 0
    path = tmp_path / "out/joints.yaml"
    tree = yaml.safe_load(path.read_text()) | {"joints": [*reversed(JOINTS)], "sigmas": 0.05}
    path.write_text(yaml.safe_dump(tree))
    before = path.read_text()
    assert converted(cvat_again).code == 0
    assert path.read_text() == before
    [first, *_] = read_records(tmp_path / "out/annotations/train.json", spec_of(tmp_path / "out"))
    assert first.joints[0, -1].tolist() == [20.5, 15.25, 2]
    path.write_text(yaml.safe_dump(tree | {"joints": ["nose", "tail"], "flips": [], "limbs": []}))
    assert_one_line(converted(cvat_again), str(path), "has no joint L_ear")


def cvat_again(folder: Path, images: Path) -> list[Any]:
    return ["cvat", folder / "annotations.xml"]


def test_a_part_of_the_images_is_held_out(converted, tmp_path):
    done = converted(labelme, "--val", "0.4")
    assert "train: 2 images" in done.out
    assert "val: 1 images" in done.out
    names = [
        {record.file_name for record in read_records(path, spec_of(tmp_path / "out"))}
        for path in sorted((tmp_path / "out/annotations").iterdir())
    ]
    assert names == [{"a.jpg", "b.jpg"}, {"c.jpg"}]


# --- single formats -----------------------------------------------------------------------


def test_yolo_without_visibility_and_names(converted, tmp_path):
    done = converted(yolo, numbers=2, kpt_names=None, path="../datasets/mouse")
    assert "rename them in joints.yaml" in done.out
    out = tmp_path / "out"
    compare(out, hidden=False)
    assert spec_of(out).flips == (("joint_2", "joint_3"),)
    text = (out / "joints.yaml").read_text().replace("joint_2", "left").replace("joint_3", "right")
    (out / "joints.yaml").write_text(text)  # the annotations have no names that could differ
    compare(out, hidden=False)


def test_yolo_without_flip_idx_asks_for_flips(converted, tmp_path):
    names = {0: ["nose", "ear a", "ear b", "tail"]}
    done = converted(yolo, flip_idx=None, kpt_names=names)
    assert "no joints are known as left and right" in done.out
    assert "# no joints are known as left and right" in (tmp_path / "out/joints.yaml").read_text()


def test_points_without_groups_belong_to_the_box_around_them(converted, tmp_path):
    def ungrouped(folder: Path, images: Path) -> list[Any]:
        args = labelme(folder, images)
        for path in folder.glob("*.json"):
            tree = json.loads(path.read_text())
            for shape in tree["shapes"]:
                shape["group_id"] = None
            path.write_text(json.dumps(tree))
        return args

    assert converted(ungrouped).code == 0
    compare(tmp_path / "out")


@pytest.mark.parametrize("make", [yolo, labelme])
def test_sizes_are_those_of_the_upright_image(make, converted, tmp_path):
    """A phone stores an image on its side, with an EXIF tag; annotation tools show it upright."""

    def on_its_side(folder: Path, images: Path) -> list[Any]:
        args = make(folder, images)
        for path in folder.rglob("*.jpg"):
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.open(path).rotate(90, expand=True).save(path, exif=exif)
        return args

    assert converted(on_its_side).code == 0
    compare(tmp_path / "out")


@pytest.mark.parametrize("several", [False, True], ids=["single points", "several in a shape"])
def test_points_of_cvat_without_skeletons_are_objects(several, converted, tmp_path):
    def loose(folder: Path, images: Path) -> list[Any]:
        args = cvat(folder, images)
        shapes = '<points label="nose" occluded="1" points="3.00,4.00" group_id="7"></points>'
        shapes += '<points label="tail" occluded="0" points="5.00,6.00" group_id="7"></points>'
        if several:
            shapes = '<points label="hand" occluded="0" points="3.00,4.00;5.00,6.00"></points>'
        image = f'<image id="0" name="a.jpg" width="160" height="120">{shapes}</image>'
        text_file(folder / "annotations.xml", f"<annotations>{image}</annotations>")
        return args

    assert converted(loose).code == 0
    spec = spec_of(tmp_path / "out")
    assert spec.joints == (("joint_1", "joint_2") if several else ("nose", "tail"))
    [record] = read_records(tmp_path / "out/annotations/train.json", spec)
    assert record.joints[0].tolist() == [[3, 4, 2 if several else 1], [5, 6, 2]]


# --- mistakes and files that mean harm ------------------------------------------------------


def edited(make: Callable, old: str, new: str, pattern: str = "*") -> Callable:
    """`make`, whose first text file that matches has `new` in place of the first `old`."""

    def run(folder: Path, images: Path) -> list[Any]:
        args = make(folder, images)
        files = [path for path in folder.rglob(pattern) if path.suffix != ".jpg" and path.is_file()]
        path = next(path for path in sorted(files) if old in path.read_text())
        path.write_text(path.read_text().replace(old, new, 1))
        return args

    return run


MISTAKES = {
    "long name": (edited(yolo, "images/train", "i" * 999), "iii: File name too long"),
    "no kpt_shape": (edited(yolo, "kpt_shape", "shape"), "kpt_shape is None"),
    "flip_idx": (edited(yolo, "- 3\nkpt_names", "- 2\nkpt_names"), "flip_idx is [0, 2, 1, 2]"),
    "too few numbers": (edited(yolo, " 2\n", "\n", "*.txt"), "a.txt:1 has 16 numbers; wanted 17"),
    "pixels": (edited(yolo, " 0.128125 ", " 20.5 ", "*.txt"), "a.txt:1: nose is at 20.5"),
    "class": (edited(yolo, "0 ", "1 ", "*.txt"), "a.txt:1: class 1 is none of names"),
    "size": (edited(labelme, '"imageWidth": 160', '"imageWidth": 320'), "annotated with 320 x 120"),
    "no image": (
        edited(labelme, '"imagePath": "a.jpg"', '"imagePath": "../z.jpg"'),
        "no image ../z",
    ),
    "joint twice": (edited(labelme, '"L_ear"', '"nose"'), "an object has the joint nose twice"),
    "no number": (edited(labelme, "15.25", "NaN"), "nan is not a finite number"),
    "entity": (
        edited(
            cvat, "<annotations>", '<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><annotations>'
        ),
        "annotations.xml: it has a DOCTYPE",
    ),
    "not XML": (edited(cvat, "</annotations>", ""), "annotations.xml is not XML"),
    "video": (
        edited(cvat, "<image", '<track id="0"></track><image'),
        "export it as CVAT for images",
    ),
    "JSON-MIN": (edited(label_studio, '"annotations"', '"kp"'), "not JSON-MIN"),
    "rotated": (edited(label_studio, '"image_rotation": 0', '"image_rotation": 90'), "was rotated"),
    "ragged": (edited(deeplabcut, ",5.0,5.0", ",5.0"), "different numbers of cells"),
    "no header": (edited(deeplabcut, "coords", "cords"), "no DeepLabCut labels"),
    "a list": (edited(label_studio, "[", "{}", "*.json"), "is not JSON"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_file_and_place(mistake, converted, tmp_path):
    make, message = MISTAKES[mistake]
    assert_one_line(converted(make), message, "source")
    assert not (tmp_path / "out/annotations").exists()


@pytest.mark.parametrize("path", ["relative", "absolute"])
def test_images_outside_the_folder_are_not_read(path, converted, images, tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes((images / "a.jpg").read_bytes())
    name = str(secret) if path == "absolute" else os.path.relpath(secret, images)
    done = converted(edited(label_studio, "/data/upload/1/0a1b2c3d-a.jpg", name))
    assert_one_line(done, f"no image {name}")


def test_the_end_of_a_path_of_another_machine_is_found(converted, tmp_path):
    name = json.dumps("C:\\data\\a.jpg")[1:-1]
    assert converted(edited(label_studio, "/data/upload/1/0a1b2c3d-a.jpg", name)).code == 0
    compare(tmp_path / "out")


def test_names_of_joints_cannot_add_lines_to_the_joints_file(converted, tmp_path):
    odd = json.dumps("left ear\nsigmas: 9\0")
    assert converted(edited(labelme, '"tail"', odd)).code == 0
    spec = spec_of(tmp_path / "out")
    assert spec.joints[3] == "left ear\nsigmas: 9\0"
    assert set(spec.sigmas) == {0.07}


def test_a_folder_that_cannot_be_made_is_named(converted, tmp_path):
    text_file(tmp_path / "out", "a file")
    assert_one_line(converted(labelme), f"{tmp_path / 'out'}: File exists")


def test_several_categories_ask_for_one(converted, tmp_path):
    two = edited(cvat, '<skeleton label="mouse"', '<skeleton label="rat"')
    assert_one_line(converted(two), "several categories, rat (1), mouse (2)", "--category")
    assert converted(cvat_again, "--category", "mouse").code == 0
    records = read_records(tmp_path / "out/annotations/train.json", spec_of(tmp_path / "out"))
    assert [len(record.joints) for record in records] == [1, 0, 1]
    assert_one_line(converted(cvat_again, "--category", "cat"), "rat (1), mouse (2)")


JUNK: tuple[Any, ...] = (None, True, -1, 10**400, 1e308, "x", [], {}, [[]], {"x": []})


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree: a list or dict, and an index or key of it."""
    keys = range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()
    return [place for key in keys for place in [(tree, key), *places(tree[key])]]


@pytest.mark.parametrize("make", [labelme, label_studio])
def test_mutated_json_is_converted_or_refused_in_one_line(make, call_tool, tmp_path, images):
    """60 files, each with junk in one place."""
    args = make(tmp_path / "source", images)
    [path, *_] = sorted((tmp_path / "source").glob("*.json"))
    text, rng = path.read_text(), np.random.default_rng(0)
    count = len(places(json.loads(text)))
    for trial in range(60):
        tree = json.loads(text)
        parent, key = places(tree)[rng.integers(count)]
        parent[key] = JUNK[rng.integers(len(JUNK))]
        path.write_text(json.dumps(tree))
        done = call_tool(convert.main, *args, "--out", tmp_path / f"out{trial % 2}")
        if done.code:
            assert_one_line(done)


@pytest.mark.parametrize("make", [yolo, cvat, deeplabcut])
def test_mutated_text_is_converted_or_refused_in_one_line(make, call_tool, tmp_path, images):
    """30 files, each with some characters taken out or replaced."""
    args = make(tmp_path / "source", images)
    files = [path for path in sorted((tmp_path / "source").rglob("*.*")) if path.suffix != ".jpg"]
    rng = np.random.default_rng(0)
    for trial in range(30):
        path = files[trial % len(files)]
        text = path.read_text()
        start, length = rng.integers(len(text)), rng.integers(1, 9)
        junk = ("", "-", "nan", "1e999", "&x;", "[", ",,", "\0")[rng.integers(8)]
        path.write_text(text[:start] + junk + text[start + length :])
        done = call_tool(convert.main, *args, "--out", tmp_path / f"out{trial}")
        path.write_text(text)
        if done.code:
            assert_one_line(done)


def test_more_joints_or_boxes_than_anyone_labels_are_refused(converted, tmp_path):
    def many(kind: str, count: int) -> Callable[..., list[Any]]:
        def run(folder: Path, images: Path) -> list[Any]:
            args = labelme(folder, images)
            tree = json.loads((folder / "a.json").read_text())
            corners = [[1, 1], [9, 9]][: 1 if kind == "point" else 2]
            tree["shapes"] = [labelme_shape(str(n), corners, None, kind) for n in range(count)]
            (folder / "a.json").write_text(json.dumps(tree))
            return args

        return run

    assert_one_line(converted(many("point", 1001)), "there are 1005 different joints")
    assert_one_line(converted(many("rectangle", 1001)), "a.json: there are 1001 boxes")


# --- SLEAP --------------------------------------------------------------------------------


def test_sleap_files_ask_for_their_reader(tmp_path, call_tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "sleap_io", None)
    done = call_tool(convert.main, "sleap", tmp_path / "a.slp", "--out", tmp_path / "out")
    assert_one_line(done, "pip install sleap-io")


def sleap(folder: Path, images: Path, embed: bool = False) -> list[Any]:
    """A file that sleap-io writes: frames in image files, or embedded (.pkg.slp)."""
    sio = importlib.import_module("sleap_io")
    copy_images(images, folder)
    pairs = [(JOINTS[a], JOINTS[b]) for a, b in LIMBS]
    skeleton = sio.Skeleton(nodes=list(JOINTS), edges=pairs, symmetries=[("R_ear", "L_ear")])
    frames = []
    for scene in SCENES[:1]:
        xy = np.array([one.joints for one in scene.animals], float)
        xy = np.where(xy[..., 2:] > 0, xy[..., :2], np.nan)
        video = sio.Video.from_filename([str(folder / scene.name)])
        instances = [sio.Instance.from_numpy(one, skeleton=skeleton) for one in xy]
        frames.append(sio.LabeledFrame(video=video, frame_idx=0, instances=instances))
    labels = sio.Labels(frames)
    path = folder / ("labels.pkg.slp" if embed else "labels.slp")
    labels.save(str(path), embed=embed, verbose=False)
    return ["sleap", path]


@pytest.mark.skipif(
    importlib.util.find_spec("sleap_io") is None, reason="needs sleap-io, which is optional"
)
@pytest.mark.parametrize("embed", [False, True], ids=["slp", "pkg.slp"])
def test_sleap_labels_are_read(embed, converted, tmp_path):
    assert converted(sleap, embed=embed).code == 0
    spec = spec_of(tmp_path / "out")
    assert (spec.joints, spec.flips) == (JOINTS, (("L_ear", "R_ear"),))
    assert spec.limbs == tuple((JOINTS[a], JOINTS[b]) for a, b in LIMBS)
    [record] = read_records(tmp_path / "out/annotations/train.json", spec)
    joints = np.array([FIRST.joints, SECOND.joints])
    joints[..., 2] = 2 * (joints[..., 2] > 0)
    np.testing.assert_allclose(record.joints, joints, atol=1e-3)
