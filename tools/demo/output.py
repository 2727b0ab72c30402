"""What the demo writes: images and videos with skeletons, and the people in COCO's format.

Images and videos keep their names in the output folder. results.json is a list of COCO's result
entries, with a `track_id` where people are tracked; `image_id` counts images and frames in their
order, from 1. images.json lists them as COCO's annotations do, with the names of the joints; a
frame of a video has its number and its `time` in seconds after the first frame.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.core.results import Prediction, result_rows
from lib.keypoints import KeypointSpec
from lib.utils.files import Partial, WriteError, reported
from lib.utils.vis import save_image
from tools.demo.media import Frame, Source
from tools.demo.sound import Sound
from tools.demo.writer import VideoFile

JPEG = (".jpg", ".jpeg")  # all other images are written as .png


class Detections(NamedTuple):
    """The people in a frame, the best first."""

    keypoints: np.ndarray  # (N, K, 3): x, y, score
    scores: list[float]
    ids: list[int] | None  # None: not tracked


class Output:
    """The output folder; its files are complete once it is closed."""

    def __init__(self, folder: Path, spec: KeypointSpec, sources: Sequence[Source]) -> None:
        """ValueError when it cannot be written, or a source, or a link to one, lies in it."""
        for source in sources:
            if source.is_file and is_folder_of(folder, source.path):
                raise ValueError(f"--out {folder} is the folder of {source.name}; name another one")
        self.folder = folder
        self.spec = spec
        self.images = self.people = 0  # written
        self.stems: set[str] = set()  # of files written
        self.video: VideoFile | None = None
        category = {
            "id": 1,
            "name": spec.name if spec.is_custom else "person",
            "keypoints": spec.joints,
            "skeleton": [(a + 1, b + 1) for a, b in spec.limb_index],
        }
        head = f'{{"categories": [{json.dumps(category)}],\n"annotations": [],\n"images": ['
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot write to --out {folder}: {error.strerror}") from None
        self.results = JsonList(folder / "results.json", "[", "]")
        self.entries = JsonList(folder / "images.json", head, "]}")

    def close(self) -> None:
        """Finish all files; WriteError for the first one that could not be written."""
        with contextlib.ExitStack() as files:
            files.callback(self.entries.close)
            files.callback(self.results.close)
            if self.video:
                files.callback(self.video.close)

    def write(self, frame: Frame, people: Detections, image: np.ndarray) -> None:
        """The next frame: `image` (H, W, 3) uint8 RGB shows `people`."""
        path = self._write_image(frame, image)
        self.images += 1
        self.people += len(people.scores)
        height, width = image.shape[:2]
        entry = {"id": self.images, "file_name": frame.source.name, "drawn": path.name}
        if frame.source.is_video:
            entry |= {"frame": frame.number, "time": round(frame.seconds, 6)}
        self.entries.add(entry | {"width": width, "height": height})
        prediction = Prediction(self.images, people.keypoints, people.scores)
        for i, row in enumerate(result_rows(self.spec, [prediction])):  # in the order of people
            self.results.add(row if people.ids is None else row | {"track_id": people.ids[i]})

    def _write_image(self, frame: Frame, image: np.ndarray) -> Path:
        source = frame.source
        if not source.is_video:
            suffix = source.path.suffix if source.path.suffix.lower() in JPEG else ".png"
            path = self.folder / f"{self._free_stem(source.path.stem)}{suffix}"
            save_image(str(path), image)
            return path
        if frame.number == 1:
            if self.video:
                self.video.close()
            assert frame.timing
            stem, sound = self._free_stem(source.stem), Sound(source, frame.timing.start)
            self.video = VideoFile(self.folder / stem, frame.timing, image, sound)
        assert self.video
        self.video.write(image, frame.seconds)
        return self.video.path

    def _free_stem(self, name: str) -> str:
        """`name`, or with _2, _3, ... where an earlier file has it."""
        stem, count = name, 1
        while stem in self.stems:
            count += 1
            stem = f"{name}_{count}"
        self.stems.add(stem)
        return stem


class JsonList:
    """A list in a JSON file between `before` and `after`, written entry by entry.

    The file takes its place when it is closed, if all of it could be written.
    """

    def __init__(self, path: Path, before: str, after: str) -> None:
        self.partial = Partial(path)
        self.after = after
        self.separator = "\n"
        self.is_whole = True
        with reported(path):
            self.file = self.partial.path.open("w", encoding="utf-8")
        self._write(before)

    def add(self, entry: Mapping[str, Any]) -> None:
        self._write(self.separator + json.dumps(entry))
        self.separator = ",\n"

    def close(self) -> None:
        if not self.is_whole:
            return
        self._write(self.after + "\n")
        self.file.close()
        self.partial.publish()

    def _write(self, text: str) -> None:
        try:
            with reported(self.partial.target):
                self.file.write(text)
                self.file.flush()
        except WriteError:
            self.is_whole = False
            self.partial.discard()
            raise


def is_folder_of(folder: Path, path: Path) -> bool:
    """Whether the file `path`, which may be a link, or what it leads to lies in `folder`."""
    parents = (path.parent.resolve(), path.resolve().parent)
    return folder.resolve() in parents
