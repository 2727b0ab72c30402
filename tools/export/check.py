"""Comparison of exported files with PyTorch: outputs, people and AP (`tools.export`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from tqdm import tqdm

from lib.core.evaluate import score_predictions, three_digits
from lib.core.inference import predict
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.deploy.graph import CandidateGraph, Graph
from lib.utils.tables import markdown
from tools.device_runner import find_people, open_model
from tools.export.forms import Form, open_form

# Outputs may differ by 1e-4 of the largest value, or by four times what rounding alone changes,
# where that is more: some layers divide by small variances (published M: tags of 12, by .002).
TOLERANCE, TIMES_ROUNDING = 1e-4, 4.0
MAX_ROUNDING = 1e-3  # of the largest value; more is no rounding
ROUNDING = "rounding"
SAME_PLACE = 0.5  # pixels of the image, between two joints that count as equal
MAX_DIFFERENT = 0.05  # of the images: two peaks of nearly equal value may swap
PEAKS = ("positions", "tags", "pixel_positions")


def compare_outputs(
    graph: Graph,
    folded: Graph,
    exported: Mapping[str, Form],
    folder: Path,
    inputs: Iterable[np.ndarray],
) -> bool:
    """Print the differences of files in `folder` to `graph`; return whether all are small.

    folded: `graph` as exported, without BatchNorms; its difference is that of rounding alone.
    exported: file name -> path or content. inputs: (1, H, W, 3) uint8 each. Heatmaps, tags of all
    pixels and values of peaks are compared, but not the places of peaks: two of nearly equal value
    may swap.
    """
    runs = {name: open_form(form, torch.get_num_threads()) for name, form in exported.items()}
    runs[ROUNDING] = TorchSession(folded).call
    worst, largest = dict.fromkeys(runs, 0.0), 0.0
    for images in inputs:
        expected = TorchSession(graph).call(images)
        outputs = {name: run(images) for name, run in runs.items()}
        for i, name in enumerate(graph.outputs):
            if name in PEAKS:
                continue
            largest = np.maximum(largest, np.abs(expected[i]).max())
            for run in runs:  # np.maximum keeps NaN, which fails below
                difference = np.abs(np.asarray(outputs[run][i]) - expected[i]).max()
                worst[run] = np.maximum(worst[run], difference)
    rounding = worst.pop(ROUNDING)
    limit = np.maximum(TOLERANCE * largest, TIMES_ROUNDING * rounding)
    is_equal = bool(rounding <= MAX_ROUNDING * largest)
    for name, difference in worst.items():
        is_small = bool(difference <= limit)
        is_equal &= is_small
        print(
            f"{'' if is_small else 'error: '}{folder / name}: differs by at most {difference:.1e} "
            f"from PyTorch; limit {limit:.1e}, largest output {largest:.2g}"
        )
    return is_equal


class PeopleCheck(NamedTuple):
    """A comparison of the people that exported files find with those of PyTorch."""

    table: str  # Markdown
    problem: str | None  # how the people of the float model differ, if they do in many images


class TorchSession:
    """A graph in PyTorch with the interface that the device runner expects of ONNX Runtime."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def call(self, images: np.ndarray) -> list[np.ndarray]:
        """images (B, H, W, 3) uint8 -> outputs"""
        with torch.no_grad():
            return [output.numpy() for output in self.graph(torch.from_numpy(images))]

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    def run(self, _: None, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return self.call(feeds["images"])


def compare_people(
    graph: CandidateGraph, card: dict[str, Any], data: EvaluationSet, paths: Sequence[Path]
) -> PeopleCheck:
    """AP of `graph` in PyTorch and of the files on `data`, and in how many images people agree.

    The first file is the float model, whose people must be those of PyTorch on the same input. The
    first row, an evaluation as by valid.py, has inputs of any size and searches missing joints
    among all pixels.
    """
    evaluated = find_all(data, partial(predict, graph.settings, graph.network))
    reference = find_all(data, partial(find_people, cast(Any, TorchSession(graph)), card))
    rows = [row_of("PyTorch, as valid.py", "", data, evaluated, reference)]
    rows.append(["PyTorch, this graph", "", *scores_of(data, reference), ""])
    problem = None
    for path in paths:
        session, card = open_model(path, torch.get_num_threads())
        predictions = find_all(data, partial(find_people, session, card))
        mebibytes = f"{path.stat().st_size / 2**20:.2f}"
        rows.append(row_of(path.name, mebibytes, data, predictions, reference))
        if path == paths[0]:
            problem = describe_differences(predictions, reference, card["joints"])
    head = ["", "MiB", "AP", "AP .5", "AP .75", "images with the same people"]
    return PeopleCheck(markdown(head, rows), problem)


def row_of(
    name: str,
    size: str,
    data: EvaluationSet,
    found: Sequence[Prediction],
    reference: Sequence[Prediction],
) -> list[str]:
    """A row of the table."""
    same = sum(
        difference(one, other, ()) is None for one, other in zip(found, reference, strict=True)
    )
    return [name, size, *scores_of(data, found), f"{same} of {len(reference)}"]


def describe_differences(
    found: Sequence[Prediction], reference: Sequence[Prediction], joints: Sequence[str]
) -> str | None:
    """One line if people differ in more than 5 % of the images; ties may fall either way."""
    texts = [difference(one, other, joints) for one, other in zip(found, reference, strict=True)]
    different = [text for text in texts if text]
    if len(different) <= MAX_DIFFERENT * len(texts):
        return None
    return (
        f"people differ from PyTorch's in {len(different)} of {len(texts)} images: {different[0]}"
    )


def find_all(
    data: EvaluationSet,
    find: Callable[[np.ndarray], tuple[np.ndarray, Sequence[float] | np.ndarray]],
) -> list[Prediction]:
    """The people that `find` returns for each image, the best first."""
    predictions = []
    for record in tqdm(data.records, leave=False, disable=None):
        people, scores = find(data.files.read(record))
        order = np.argsort(-np.array(scores), kind="stable")
        predictions.append(Prediction(record.id, people[order], np.array(scores)[order].tolist()))
    return predictions


def scores_of(data: EvaluationSet, predictions: Sequence[Prediction]) -> list[str]:
    """AP, AP .5 and AP .75."""
    table = score_predictions(data, list(predictions))
    return list(map(three_digits, list(table.values())[:3]))


def difference(one: Prediction, other: Prediction, joints: Sequence[str]) -> str | None:
    """How the people of `one` differ from the reference `other`; None if they do not.

    They are equal if there are as many, with the same joints, at most SAME_PLACE apart.
    """
    image = f"image {one.image_id}"
    if len(one.people) != len(other.people):
        return f"{image} has {len(one.people)} people, PyTorch finds {len(other.people)}"
    has = one.people[..., 2] > 0  # (N, K)
    distance = np.linalg.norm(one.people[..., :2] - other.people[..., :2], axis=2) * has
    differs = (has != (other.people[..., 2] > 0)) | ~(distance <= SAME_PLACE)
    if not differs.any():
        return None
    person, joint = np.argwhere(differs)[0]
    name = joints[joint] if joints else f"joint {joint}"
    where = f"{distance[person, joint]:.1f} px away"
    if has[person, joint] != (other.people[person, joint, 2] > 0):
        where = "not in PyTorch's" if has[person, joint] else "missing"
    return f"{image}, person {person + 1}: {name} is {where}"
