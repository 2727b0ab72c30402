"""What the demonstration writes: drawings, and what was found in COCO's format.

Pictures and videos keep their names in the output folder. results.json is a list of COCO's result
entries, with a `track_id` where people are tracked; its `image_id` counts pictures and frames as
they came, from 1. images.json lists them, as COCO's annotations do, with the joints' names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from lib.core.results import Prediction, result_rows
from lib.keypoints import KeypointSpec
from lib.utils.vis import save_image
from tools.demo.media import Frame, Source, VideoFile

JPEG = (".jpg", ".jpeg")  # whatever else comes in goes out as .png


class People(NamedTuple):
    """Who is in a picture, the best first."""

    joints: np.ndarray  # (N, K, 3): x, y, score
    scores: list[float]
    ids: list[int] | None  # None: not tracked


class Output:
    """A folder that is being filled; whole when it is left."""

    def __init__(self, folder: Path, spec: KeypointSpec, sources: Sequence[Source]) -> None:
        """ValueError when it cannot be written, or is where a source lies."""
        for source in sources:
            if not source.is_camera and source.place.resolve().parent == folder.resolve():
                raise ValueError(f"--out {folder} is the folder of {source.name}; name another one")
        self.folder = folder
        self.spec = spec
        self.images = self.people = 0  # written
        self.stems: set[str] = set()  # of files written
        self.video: VideoFile | None = None
        person = {
            "id": 1,
            "name": spec.category,
            "keypoints": spec.joints,
            "skeleton": [(a + 1, b + 1) for a, b in spec.limb_index],
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.results = JsonList(folder / "results.json", "[", "]")
            head = f'{{"categories": [{json.dumps(person)}],\n"annotations": [],\n"images": ['
            self.listed = JsonList(folder / "images.json", head, "]}")
        except OSError as error:
            raise ValueError(f"cannot write to --out {folder}: {error.strerror}") from None

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.video:
            self.video.close()
        self.results.close()
        self.listed.close()

    def write(self, frame: Frame, people: People, picture: np.ndarray) -> None:
        """The next frame: `picture` (H, W, 3) uint8 RGB shows `people`."""
        path = self._write_picture(frame, picture)
        self.images += 1
        self.people += len(people.scores)
        height, width = picture.shape[:2]
        entry = {"id": self.images, "file_name": frame.source.name, "drawn": path.name}
        entry |= {"frame": frame.number} if frame.source.is_video else {}
        self.listed.add(entry | {"width": width, "height": height})
        rows = result_rows(self.spec, [Prediction(self.images, people.joints, people.scores)])
        for i, row in enumerate(rows):  # they are in the same order
            self.results.add(row if people.ids is None else row | {"track_id": people.ids[i]})

    def _write_picture(self, frame: Frame, picture: np.ndarray) -> Path:
        source = frame.source
        if frame.number == 1:
            stem = self._free_stem(source)
            if not source.is_video:
                suffix = source.place.suffix if source.place.suffix.lower() in JPEG else ".png"
                save_image(stem.with_name(stem.name + suffix), picture)
                return stem.with_name(stem.name + suffix)
            if self.video:
                self.video.close()
            self.video = VideoFile(stem, frame.rate, picture)
        self.video.write(picture, frame.seconds)
        return self.video.path

    def _free_stem(self, source: Source) -> Path:
        """The source's own name in the folder, or with _2, _3, ... where it is taken."""
        own = name = source.name.replace(" ", "_") if source.is_camera else source.place.stem
        count = 1
        while name in self.stems:
            count += 1
            name = f"{own}_{count}"
        self.stems.add(name)
        return self.folder / name


class JsonList:
    """A list in a JSON file, between `before` and `after`; written entry by entry."""

    def __init__(self, path: Path, before: str, after: str) -> None:
        self.file = path.open("w")
        self.file.write(before)
        self.after = after
        self.separator = "\n"

    def add(self, entry: Mapping[str, Any]) -> None:
        self.file.write(self.separator + json.dumps(entry))
        self.separator = ",\n"

    def close(self) -> None:
        self.file.write(self.after + "\n")
        self.file.close()
