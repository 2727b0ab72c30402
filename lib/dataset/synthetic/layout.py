"""A synthetic data set on disk, in the layout of COCO, of CrowdPose or of custom keypoints.

`make_dataset` renders it, and does nothing where the same data set already exists. Every file is
a function of (seed, split, index) alone, however many processes share the work. `synthetic.json`
is written last: a folder that has it is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2

from lib.dataset.synthetic.describe import LAYOUTS, SPLITS, Entry, Json, Layout, annotation_file
from lib.dataset.synthetic.scene import SceneParams, draw_scene
from lib.keypoints import KeypointSpec
from lib.utils.files import write_file

VERSION = 1  # raise it when the same seed gives other images: old folders are then rendered again
RECORD, UNFINISHED = "synthetic.json", "synthetic.json.unfinished"
JPEG_QUALITY = 90


class Task(NamedTuple):
    """One image to render."""

    seed: int
    image_id: int
    path: Path
    params: SceneParams
    layout: str  # a key of LAYOUTS


def make_dataset(
    root: Path,
    spec: KeypointSpec,
    counts: Mapping[str, int],
    params: SceneParams | Mapping[str, SceneParams] = SceneParams(),  # noqa: B008 (frozen)
    seed: int = 0,
    workers: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> int:
    """Write `counts` images per split ("train", "val", "test") into `root`.

    params: one for all splits, or one per split. tick: called after each image.
    Returns the number of rendered images: 0 where the same data set already exists.
    """
    root, layout = Path(root), LAYOUTS.get(spec.name)
    if layout is None or layout.spec != spec:
        raise ValueError(f"no layout for {spec.name} with {spec.num_joints} joints")
    check_request(counts, seed)
    counts = {split: counts.get(split, 0) for split in SPLITS}
    if isinstance(params, SceneParams):
        params = dict.fromkeys(SPLITS, params)
    params = {split: layout.adapt(params[split]) for split in SPLITS if counts[split]}
    record = {
        "version": VERSION,
        "format": spec.name,
        "seed": seed,
        "counts": counts,
        "params": {split: asdict(of_split) for split, of_split in params.items()},
    }
    if is_complete(root, record, layout):
        return 0
    clear(root)
    tasks = list_tasks(root, layout, counts, params, seed)
    rendered = render_all(tasks, workers, tick)
    for number, row in enumerate((row for _, rows in rendered for row in rows), start=1):
        row["id"] = number
    remaining = iter(rendered)
    entries = {split: list(islice(remaining, counts[split])) for split in SPLITS}
    for name, splits in layout.files(counts).items():
        chosen = [entry for split in splits for entry in entries[split]]
        (root / name).parent.mkdir(exist_ok=True)
        content = annotation_file(layout, chosen, VERSION)
        write_file(root / name, json.dumps(content))
    write_file(root / RECORD, json.dumps(record))
    (root / UNFINISHED).unlink()
    return len(tasks)


def check_request(counts: Mapping[str, int], seed: int) -> None:
    for split, count in counts.items():
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; wanted one of {', '.join(SPLITS)}")
        if count < 0:
            raise ValueError(f"{split} has {count} images; wanted 0 or more")
    if not any(counts.values()):
        raise ValueError("no split has any image; wanted at least one")
    if seed < 0:
        raise ValueError(f"seed is {seed}; wanted 0 or more")


def is_complete(root: Path, record: Json, layout: Layout) -> bool:
    """Whether `root` holds exactly this data set, every file of it."""
    if not (root / RECORD).is_file():
        return False
    if json.loads((root / RECORD).read_text(encoding="utf-8")) != json.loads(json.dumps(record)):
        return False
    images = sum(1 for _ in (root / "images").rglob("*.jpg"))
    files = layout.files(record["counts"])
    return images == sum(record["counts"].values()) and all((root / f).is_file() for f in files)


def clear(root: Path) -> None:
    """Delete an earlier synthetic data set in `root` and mark it unfinished; refuse any other."""
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


def scene_seed(seed: int, split: str, index: int) -> int:
    """A different number for every (seed, split, index) with index below 2**32."""
    return (seed * len(SPLITS) + SPLITS.index(split)) << 32 | index


def list_tasks(
    root: Path,
    layout: Layout,
    counts: Mapping[str, int],
    params: Mapping[str, SceneParams],
    seed: int,
) -> list[Task]:
    """Every image, split after split, its id unique in the data set; makes the folders."""
    tasks: list[Task] = []
    for split, count in counts.items():
        for index in range(count):
            image_id = layout.first_id + len(tasks)
            path = root / layout.image.format(split=split, id=image_id)
            number = scene_seed(seed, split, index)
            tasks.append(Task(number, image_id, path, params[split], layout.spec.name))
    for folder in {task.path.parent for task in tasks}:
        folder.mkdir(parents=True, exist_ok=True)
    return tasks


def render_all(tasks: Sequence[Task], workers: int, tick: Callable[[], object]) -> list[Entry]:
    """Render and save every image; (image entry, annotations) in the order of tasks."""
    entries = []
    if workers <= 1:
        for task in tasks:
            entries.append(render(task))
            tick()
        return entries
    context = multiprocessing.get_context("spawn")  # forking after cv2's threads may hang
    with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
        for entry in pool.map(render, tasks, chunksize=min(32, 1 + len(tasks) // (4 * workers))):
            entries.append(entry)
            tick()
    return entries


def render(task: Task) -> Entry:
    """Save one image; its entry and its annotations, which lack their ids."""
    layout = LAYOUTS[task.layout]
    scene = draw_scene(task.seed, task.params, layout.kind)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, data = cv2.imencode(task.path.suffix, scene.image[..., ::-1], quality)
    write_file(task.path, data.tobytes())
    return layout.describe(layout, scene, task.image_id, task.path.name)
