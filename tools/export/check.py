"""Comparison of exported files with PyTorch: outputs, people and AP (`tools.export`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from tqdm import tqdm

from lib.core.evaluate import score_predictions, three_digits
from lib.core.inference import predict
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.deploy.graph import CandidateGraph, Graph
from lib.utils.tables import markdown
from tools.demo.track import similarity
from tools.device_runner import find_people
from tools.export.forms import Form, Run, open_form

# Outputs may differ by 1e-4 of the largest value, or by four times what rounding alone changes,
# where that is more: some layers divide by small variances (published M: tags of 12, by .002).
TOLERANCE, TIMES_ROUNDING = 1e-4, 4.0
MAX_ROUNDING = 1e-3  # of the largest value; more is no rounding
ROUNDING = "rounding"
SAME_PLACE = 0.5  # pixels of the image, between two joints that count as equal
CERTAIN = 0.2  # score of a person; many of a lower score are found by one of two networks alone
SAME_PERSON = 0.9  # OKS of two people that count as one
MAX_DIFFERENT = 0.05  # of the images: two peaks of nearly equal value may swap
PEAKS = ("positions", "tags", "pixel_positions")


def compare_outputs(
    graph: Graph,
    folded: Graph,
    exported: Mapping[str, Form | Run],
    folder: Path,
    inputs: Iterable[np.ndarray],
    tolerance: float = TOLERANCE,
) -> bool:
    """Print the differences of files in `folder` to `graph`; return whether all are small.

    folded: `graph` as exported, without BatchNorms; its difference is that of rounding alone.
    exported: file name -> path, content or call. inputs: (1, H, W, 3) uint8 each. Heatmaps, tags of
    all pixels and values of peaks are compared, but not the places of peaks: two of nearly equal
    value may swap.
    """
    threads = torch.get_num_threads()
    runs = {name: f if callable(f) else open_form(f, threads) for name, f in exported.items()}
    runs[ROUNDING] = run_of(folded)
    worst, largest = dict.fromkeys(runs, 0.0), 0.0
    for images in inputs:
        expected = run_of(graph)(images)
        outputs = {name: run(images) for name, run in runs.items()}
        for i, name in enumerate(graph.outputs):
            if name in PEAKS:
                continue
            largest = np.maximum(largest, np.abs(expected[i]).max())
            for run in runs:  # np.maximum keeps NaN, which fails below
                worst[run] = np.maximum(worst[run], gap(np.asarray(outputs[run][i]), expected[i]))
    rounding = worst.pop(ROUNDING)
    limit = np.maximum(tolerance * largest, TIMES_ROUNDING * rounding)
    is_equal = bool(rounding <= MAX_ROUNDING * largest)
    for name, difference in worst.items():
        is_small = bool(difference <= limit)
        is_equal &= is_small
        print(
            f"{'' if is_small else 'error: '}{folder / name}: differs by at most {difference:.1e} "
            f"from PyTorch; limit {limit:.1e}, largest output {largest:.2g}"
        )
    return is_equal


def gap(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference; infinite between arrays of different shapes."""
    return np.abs(found - expected).max() if found.shape == expected.shape else np.inf


def run_of(graph: Graph) -> Run:
    """A function that runs a graph in PyTorch: images (B, H, W, 3) uint8 -> outputs."""

    @torch.no_grad()
    def run(images: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in graph(torch.from_numpy(images))]

    return run


class Session(Protocol):
    """What the device runner needs of ONNX Runtime."""

    def get_inputs(self) -> Sequence[Any]: ...

    def run(self, output_names: None, input_feed: Mapping[str, np.ndarray], /) -> Sequence[Any]: ...


class RunSession:
    """A function that runs a graph, as the device runner calls ONNX Runtime."""

    def __init__(self, run: Run) -> None:
        self.call = run

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images")]

    def run(self, _: None, feeds: Mapping[str, np.ndarray], /) -> Sequence[Any]:
        return self.call(feeds["images"])


class Model(NamedTuple):
    """An exported network that finds people."""

    files: Sequence[Path]
    session: Session
    as_pytorch: bool = True  # whether its people must be those of PyTorch


class PeopleCheck(NamedTuple):
    """A comparison of the people that exported files find with those of PyTorch."""

    table: str  # Markdown
    problems: list[str]  # a line for each float model whose people differ in many images


def compare_people(
    graph: CandidateGraph, card: dict[str, Any], data: EvaluationSet, models: Sequence[Model]
) -> PeopleCheck:
    """AP of `graph` in PyTorch and of the models on `data`, and in how many images people agree.

    The first row, an evaluation as by valid.py, has inputs of any size and searches missing joints
    among all pixels.
    """
    evaluated = find_all(data, partial(predict, graph.settings, graph.network))
    reference = find_all(data, finder(RunSession(run_of(graph)), card))
    rows = [row_of("PyTorch, as valid.py", "", data, evaluated, reference)]
    rows.append(["PyTorch, this graph", "", *scores_of(data, reference), "", ""])
    problems = []
    for model in models:
        predictions = find_all(data, finder(model.session, card))
        mebibytes = f"{sum(path.stat().st_size for path in model.files) / 2**20:.2f}"
        rows.append(row_of(model.files[0].name, mebibytes, data, predictions, reference))
        problem = describe_differences(predictions, reference, card["joints"])
        if problem and model.as_pytorch:
            problems.append(f"{model.files[0]}: {problem}")
    head = ["", "MiB", "AP", "AP .5", "AP .75", "images with the same people", "people in common"]
    return PeopleCheck(markdown(head, rows), problems)


def finder(session: Any, card: dict[str, Any]) -> Callable[[np.ndarray], tuple[np.ndarray, Any]]:
    """The device runner: image -> people and scores."""
    return lambda image: find_people(session, card, image)


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
    common = people_in_common(found, reference, np.array(data.spec.sigmas))
    return [name, size, *scores_of(data, found), f"{same} of {len(reference)}", common]


def people_in_common(
    found: Sequence[Prediction], reference: Sequence[Prediction], sigmas: np.ndarray
) -> str:
    """The share of people, of a score of at least CERTAIN, that the other predictions have, too.

    These have a person with an OKS of SAME_PERSON. Both sides count; "-" without people.
    """
    common = total = 0
    for pair in zip(found, reference, strict=True):
        for one, other in (pair, pair[::-1]):
            people = one.people[np.array(one.scores) >= CERTAIN]
            total += len(people)
            if len(people) and len(other.people):
                oks = similarity(people, other.people, sigmas).max(axis=1)
                common += int((oks >= SAME_PERSON).sum())
    return f"{100 * common / total:.1f} %" if total else "-"


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
