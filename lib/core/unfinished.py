"""An evaluation that was cut off: which pictures it had finished, and what was found in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from lib.utils.dist import ALONE, Process
from lib.utils.journal import Journal

logger = logging.getLogger(__name__)

HARMLESS = ("MODEL_FILE", "IMAGES_PER_GPU", "LOG_PROGRESS")  # of TEST: they change no prediction


class Unfinished:
    """Journals beside the result file, one for each process: <results>.unfinished-<rank>.jsonl.

    Each file is read by one process, however many wrote and read, so all are read wherever the
    processes share a file system. What was found with other weights or settings is discarded.
    """

    def __init__(self, results: Path, header: Mapping[str, Any], process: Process = ALONE) -> None:
        """`results`: the file that the evaluation is going to write; `header`: see `identity`."""
        results.parent.mkdir(parents=True, exist_ok=True)
        self.results = results
        own = self._path(process.rank)
        old = [path for number, path in self._all() if number % process.world_size == process.rank]
        journals = {path: _continue(path, header) for path in dict.fromkeys([own, *old])}
        self.own, self.paths = journals[own], list(journals)
        self.known = [e for journal in journals.values() for e in journal.entries.values()]

    def add(self, image_id: int, **found: Any) -> None:
        """A picture is finished."""
        self.own.add((image_id,), image_id=image_id, **found)

    def remove(self) -> None:
        """All is written elsewhere."""
        self.own.close()
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.results.with_name(f"{self.results.stem}.unfinished-{number}.jsonl")

    def _all(self) -> list[tuple[int, Path]]:
        """The journals that are there, with their numbers."""
        begin = f"{self.results.stem}.unfinished-"
        numbered = [
            (path.name.removeprefix(begin).removesuffix(".jsonl"), path)
            for path in sorted(self.results.parent.iterdir())
            if path.name.startswith(begin)
        ]
        return [(int(number), path) for number, path in numbered if number.isdecimal()]


def identity(cfg: CfgNode, weights: str, **more: Any) -> dict[str, Any]:
    """All that a prediction depends on: what two evaluations must share to continue one another."""
    test = {name: value for name, value in cfg.TEST.items() if name not in HARMLESS}
    return {
        "weights": weights,
        **more,
        "config": {"DATASET": cfg.DATASET, "MODEL": cfg.MODEL, "TEST": test, "FP16": cfg.FP16},
    }


def _continue(path: Path, header: Mapping[str, Any]) -> Journal:
    """The journal at `path`, made new where it does not belong to `header` or is damaged."""
    try:
        return Journal(path, header, sync=False)
    except ValueError as error:
        logger.info("%s: starting afresh", error)
        path.unlink()
        return Journal(path, header, sync=False)
