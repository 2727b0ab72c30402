"""Comparison of exported files with PyTorch: outputs, people and AP (`tools.export`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from lib.core.evaluate import score_predictions, three_digits
from lib.core.inference import InferenceSettings, predict
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.deploy.graph import Graph
from lib.utils.tables import markdown
from tools.device_runner import find_people, open_model
from tools.export.forms import Form, open_form

TOLERANCE = 1e-4  # of outputs, relative to the largest value
SAME_PLACE = 0.5  # pixels of the image, between two joints that count as equal
PEAKS = ("positions", "tags", "pixel_positions")


def compare_outputs(
    graph: Graph, exported: Mapping[str, Form], folder: Path, inputs: Iterable[np.ndarray]
) -> bool:
    """Print the differences of files in `folder` to `graph`; return whether all are small.

    exported: file name -> path or content. inputs: (1, H, W, 3) uint8 each. Heatmaps, tags of all
    pixels and values of peaks are compared, but not the places of peaks: two of nearly equal value
    may swap.
    """
    threads = torch.get_num_threads()
    forms = {name: open_form(form, threads) for name, form in exported.items()}
    worst, largest = dict.fromkeys(forms, 0.0), 0.0
    for images in inputs:
        with torch.no_grad():
            expected = [output.numpy() for output in graph(torch.from_numpy(images))]
        outputs = {name: run(images) for name, run in forms.items()}
        for i, name in enumerate(graph.outputs):
            if name in PEAKS:
                continue
            largest = np.maximum(largest, np.abs(expected[i]).max())
            for form in forms:  # np.maximum keeps NaN, which fails below
                difference = np.abs(np.asarray(outputs[form][i]) - expected[i]).max()
                worst[form] = np.maximum(worst[form], difference)
    for name, difference in worst.items():
        print(
            f"{folder / name}: differs by at most {difference:.1e} from PyTorch; "
            f"largest output {largest:.2g}"
        )
    return all(difference <= TOLERANCE * largest for difference in worst.values())


def people_table(
    settings: InferenceSettings, model: nn.Module, data: EvaluationSet, paths: Sequence[Path]
) -> str:
    """Markdown: AP of PyTorch and of the files on `data`, and on how many images people agree."""
    reference = find_all(data, partial(predict, settings, model))
    rows = [["PyTorch", "", *scores_of(data, reference), ""]]
    for path in paths:
        session, card = open_model(path, torch.get_num_threads())
        predictions = find_all(data, partial(find_people, session, card))
        same = sum(map(same_people, reference, predictions))
        size = f"{path.stat().st_size / 2**20:.2f}"
        scores = scores_of(data, predictions)
        rows.append([path.name, size, *scores, f"{same} of {len(reference)}"])
    return markdown(["", "MiB", "AP", "AP .5", "AP .75", "images with the same people"], rows)


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


def scores_of(data: EvaluationSet, predictions: list[Prediction]) -> list[str]:
    """AP, AP .5 and AP .75."""
    table = score_predictions(data, predictions)
    return list(map(three_digits, list(table.values())[:3]))


def same_people(one: Prediction, other: Prediction) -> bool:
    """Whether both have as many people with the same joints, each at about the same place."""
    if len(one.people) != len(other.people):
        return False
    has = one.people[..., 2] > 0
    if (has != (other.people[..., 2] > 0)).any():
        return False
    distance = np.linalg.norm(one.people[..., :2] - other.people[..., :2], axis=2)
    return bool((distance[has] <= SAME_PLACE).all())
