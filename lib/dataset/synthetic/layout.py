"""Synthetic pictures on disk, in the layout of COCO, of CrowdPose or of an own data set.

`make_dataset` draws, and does nothing where the same data set already is. What it writes is
decided by (seed, split, index) alone, however many processes share the work. `synthetic.json`
is written last: a folder that has it is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from lib.dataset.synthetic.animals import ANIMAL, ANIMALS
from lib.dataset.synthetic.scene import CROWD, PEOPLE, Kind, Scene, SceneParams, draw_scene
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec

VERSION = 1  # raise it when the same seed gives other pictures: old folders are then redrawn
SPLITS = ("train", "val", "test")
RECORD, UNFINISHED = "synthetic.json", "synthetic.json.unfinished"
JPEG_QUALITY = 90

Json = dict[str, Any]
Entry = tuple[Json, list[Json]]  # of an image: its own record, its annotations


class Task(NamedTuple):
    """One picture to draw."""

    seed: int
    image_id: int
    path: Path
    params: SceneParams
    spec: KeypointSpec


def make_dataset(
    root: Path,
    spec: KeypointSpec,
    counts: Mapping[str, int],
    params: SceneParams | Mapping[str, SceneParams] = SceneParams(),  # noqa: B008 (frozen)
    seed: int = 0,
    workers: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> int:
    """Write `counts` pictures a split ("train", "val", "test") into `root`.

    params: one for all splits, or one a split. tick: called after each picture.
    Returns how many pictures were drawn: 0 where the very same data set already is.
    """
    root, layout = Path(root), layout_of(spec)
    check_request(counts, seed)
    counts = {split: counts.get(split, 0) for split in SPLITS}
    if isinstance(params, SceneParams):
        params = dict.fromkeys(SPLITS, params)
    params = {split: layout.drawable(params[split]) for split in SPLITS if counts[split]}
    record = {
        "version": VERSION,
        "format": spec.name,
        "seed": seed,
        "counts": counts,
        "params": {split: asdict(drawn) for split, drawn in params.items()},
    }
    if is_complete(root, record, layout):
        return 0
    start_anew(root)
    tasks = list_tasks(root, spec, counts, params, seed)
    drawn = draw_all(tasks, workers, tick)
    number_annotations(drawn)
    remaining = iter(drawn)
    entries = {split: list(islice(remaining, counts[split])) for split in SPLITS}
    for name, splits in layout.files(counts).items():
        chosen = [entry for split in splits for entry in entries[split]]
        write_json(root / name, annotation_file(spec, chosen))
    write_json(root / UNFINISHED, record)
    os.replace(root / UNFINISHED, root / RECORD)
    return len(tasks)


def check_request(counts: Mapping[str, int], seed: int) -> None:
    for split, count in counts.items():
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; wanted one of {', '.join(SPLITS)}")
        if count < 0:
            raise ValueError(f"{split} has {count} pictures; wanted 0 or more")
    if not any(counts.values()):
        raise ValueError("no split has any picture; wanted at least one")
    if seed < 0:
        raise ValueError(f"seed is {seed}; wanted 0 or more")


# --- what is already there --------------------------------------------------------------


def is_complete(root: Path, record: Json, layout: Layout) -> bool:
    """Whether `root` holds exactly this data set, every file of it."""
    if not (root / RECORD).is_file():
        return False
    if json.loads((root / RECORD).read_text()) != json.loads(json.dumps(record)):
        return False
    pictures = sum(1 for _ in (root / "images").rglob("*.jpg"))
    files = layout.files(record["counts"])
    return pictures == sum(record["counts"].values()) and all((root / f).is_file() for f in files)


def start_anew(root: Path) -> None:
    """Empty `root` of an earlier data set of ours and mark it unfinished; spare any other."""
    ours = (root / RECORD).is_file() or (root / UNFINISHED).is_file()
    if root.exists() and not ours and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(
            f"{root} is not empty and holds no synthetic data set; wanted a new or empty folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    (root / UNFINISHED).touch()
    (root / RECORD).unlink(missing_ok=True)
    for folder in ("images", "annotations", "json"):
        shutil.rmtree(root / folder, ignore_errors=True)


# --- drawing ----------------------------------------------------------------------------


def scene_seed(seed: int, split: str, index: int) -> int:
    """A different number for every (seed, split, index) with index below 2**32."""
    return (seed * len(SPLITS) + SPLITS.index(split)) << 32 | index


def list_tasks(
    root: Path,
    spec: KeypointSpec,
    counts: Mapping[str, int],
    params: Mapping[str, SceneParams],
    seed: int,
) -> list[Task]:
    """Every picture, split after split, its id unique in the data set; makes the folders."""
    layout, tasks = layout_of(spec), []
    for split, count in counts.items():
        for index in range(count):
            image_id = layout.first_id + len(tasks)
            path = root / layout.picture.format(split=split, id=image_id)
            tasks.append(Task(scene_seed(seed, split, index), image_id, path, params[split], spec))
    for folder in {task.path.parent for task in tasks}:
        folder.mkdir(parents=True, exist_ok=True)
    return tasks


def draw_all(tasks: list[Task], workers: int, tick: Callable[[], object]) -> list[Entry]:
    """Draw and save every picture; returns (image entry, annotations) in the order of tasks."""
    drawn = []
    with ExitStack() as stack:
        if workers > 1:
            context = multiprocessing.get_context("spawn")  # forking after cv2's threads may hang
            pool = ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,))
            chunk = min(32, 1 + len(tasks) // (4 * workers))
            results = stack.enter_context(pool).map(draw_one, tasks, chunksize=chunk)
        else:
            results = map(draw_one, tasks)
        for result in results:
            drawn.append(result)
            tick()
    return drawn


def draw_one(task: Task) -> Entry:
    """Save one picture; returns its entry and its annotations, which lack their ids."""
    layout = layout_of(task.spec)
    scene = draw_scene(task.seed, task.params, layout.kind)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    if not cv2.imwrite(str(task.path), scene.image[..., ::-1], quality):
        raise OSError(f"could not write {task.path}")
    return layout.describe(task, scene)


# --- the layouts --------------------------------------------------------------------


def describe_coco(task: Task, scene: Scene) -> Entry:
    """Outlines and areas of what shows of everybody; a far-away group is one crowd region."""
    rows = [
        {
            **common_fields(task, keypoints, scene.boxes[person]),
            "num_keypoints": int((keypoints[:, 2] > 0).sum()),
            **outline_fields(scene.people == person + 1, to_polygons),
        }
        for person, keypoints in enumerate(pick(scene.keypoints, task.spec))
    ]
    crowd = scene.people == CROWD
    if crowd.any():
        nothing = np.zeros((task.spec.num_joints, 3))
        fields = common_fields(task, nothing, mask_box(crowd)) | {"iscrowd": 1}
        rows.append({**fields, "num_keypoints": 0, **outline_fields(crowd, to_rle)})
    return image_entry(task, scene), rows


def describe_crowd_pose(task: Task, scene: Scene) -> Entry:
    """No areas, no outlines; head and neck do not count as keypoints."""
    people = pick(scene.keypoints, task.spec)
    counted = [joint not in task.spec.uncounted for joint in task.spec.joints]
    rows = [
        {
            **common_fields(task, keypoints, scene.boxes[person]),
            "num_keypoints": int((keypoints[counted, 2] > 0).sum()),
        }
        for person, keypoints in enumerate(people)
    ]
    return image_entry(task, scene) | {"crowdIndex": crowd_index(people, scene.boxes)}, rows


@dataclass(frozen=True)
class Layout:
    """Where pictures and annotations go, and what an annotation says."""

    first_id: int
    picture: str  # format strings: of `split` and `id`
    annotations: str  # of `split`
    describe: Callable[[Task, Scene], Entry]
    joined: tuple[tuple[str, ...], ...] = ()  # splits that share one more annotation file
    far_people: bool = True  # whether annotations can tell of people without joints
    kind: Kind = PEOPLE

    def files(self, counts: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """Annotation file -> the splits in it."""
        parts = [(split,) for split in SPLITS if counts[split]] + list(self.joined)
        return {self.annotations.format(split="".join(splits)): splits for splits in parts}

    def drawable(self, params: SceneParams) -> SceneParams:
        return params if self.far_people else replace(params, tiny=0.0, crowd=0.0)


LAYOUTS = {
    COCO: Layout(
        first_id=1,
        picture="images/{split}2017/{id:012d}.jpg",
        annotations="annotations/person_keypoints_{split}2017.json",
        describe=describe_coco,
    ),
    CROWD_POSE: Layout(
        first_id=100001,
        picture="images/{id}.jpg",
        annotations="json/crowdpose_{split}.json",
        describe=describe_crowd_pose,
        joined=(("train", "val"),),
        far_people=False,
    ),
    ANIMAL: Layout(
        first_id=1,
        picture="images/{split}/{id:06d}.jpg",
        annotations="annotations/{split}.json",
        describe=describe_coco,
        far_people=False,
        kind=ANIMALS,
    ),
}


def layout_of(spec: KeypointSpec) -> Layout:
    if spec not in LAYOUTS:
        known = ", ".join(f"{s.name} ({s.num_joints} joints)" for s in LAYOUTS)
        raise ValueError(f"no layout for {spec.name} ({spec.num_joints} joints); known: {known}")
    return LAYOUTS[spec]


def pick(keypoints: np.ndarray, spec: KeypointSpec) -> np.ndarray:
    """(P, joints of the kind, 3) -> (P, K, 3), the joints of one data set in its order."""
    drawn = layout_of(spec).kind.joints
    return keypoints[:, [drawn.index(joint) for joint in spec.joints]]


def image_entry(task: Task, scene: Scene) -> Json:
    height, width = scene.people.shape
    return {"id": task.image_id, "file_name": task.path.name, "width": width, "height": height}


def common_fields(task: Task, keypoints: np.ndarray, box: np.ndarray) -> Json:
    rows = [[round(float(x), 2), round(float(y), 2), int(v)] for x, y, v in keypoints]
    return {
        "image_id": task.image_id,
        "category_id": 1,
        "keypoints": [value for row in rows for value in row],
        "bbox": [round(float(value), 2) for value in box],
        "iscrowd": 0,
    }


def outline_fields(mask: np.ndarray, encode: Callable[[np.ndarray], Any]) -> Json:
    return {"area": int(mask.sum()), "segmentation": encode(mask)}


def mask_box(mask: np.ndarray) -> np.ndarray:
    """(4,): x, y, w, h of the true pixels of (H, W)."""
    return np.array(cv2.boundingRect(mask.astype(np.uint8)))


def to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outer outlines [x, y, x, y, ...] of (H, W); COCO puts the center of a pixel at +0.5."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    polygons = [(c[:, 0] + 0.5).ravel().tolist() for c in contours if len(c) >= 3]
    if polygons:
        return polygons
    x, y, w, h = (float(value) for value in mask_box(mask))
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def to_rle(mask: np.ndarray) -> Json:
    """Run lengths down the columns of (H, W), the first run counting zeros."""
    flat = mask.ravel(order="F").tolist()
    counts = [len(list(run)) for _, run in groupby(flat)]
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def crowd_index(keypoints: np.ndarray, boxes: np.ndarray) -> float:
    """Mean over people of others' joints / own joints inside the box; 0..1, as CrowdPose."""
    ratios = []
    for person, (x, y, w, h) in enumerate(boxes):
        at_x, at_y, labelled = keypoints[..., 0], keypoints[..., 1], keypoints[..., 2] > 0
        inside = labelled & (at_x >= x) & (at_x <= x + w) & (at_y >= y) & (at_y <= y + h)  # (P, K)
        own = inside[person].sum()
        if own:
            ratios.append((inside.sum() - own) / own)
    return round(min(1.0, float(np.mean(ratios))), 4) if ratios else 0.0


# --- files ------------------------------------------------------------------------------


def number_annotations(entries: list[Entry]) -> None:
    """Give every annotation of the data set its own id, from 1; in place."""
    rows = [row for _, of_image in entries for row in of_image]
    for number, row in enumerate(rows, start=1):
        row["id"] = number


def annotation_file(spec: KeypointSpec, entries: list[Entry]) -> Json:
    plural = {"person": "people"}.get(spec.category, f"{spec.category}s")
    category = {
        "supercategory": spec.category,
        "id": 1,
        "name": spec.category,
        "keypoints": list(spec.joints),
        "skeleton": [[a + 1, b + 1] for a, b in spec.limb_index],
    }
    return {
        "info": {"description": f"Synthetic {plural}, {spec.name} layout", "version": str(VERSION)},
        "images": [image for image, _ in entries],
        "annotations": [row for _, rows in entries for row in rows],
        "categories": [category],
    }


def write_json(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
