"""Whether exported files do what PyTorch does, in numbers and in people (`tools.export`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from yacs.config import CfgNode

from lib.core.evaluate import score_predictions
from lib.core.inference import InferenceSettings, predict
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from tools.device_runner import find_people, open_model
from tools.export.forms import open_onnx

ALLOWED = 1e-4  # difference of numbers, of the largest
NEAR = 0.5  # pixels of the picture; joints nearer to one another are the same
PEAKS = ("positions", "tags", "pixel_positions")

Finder = Callable[[np.ndarray], tuple[np.ndarray, Sequence[float]]]


def compare_numbers(whole: nn.Module, folder: Path, inputs: Iterable[np.ndarray]) -> bool:
    """Print how far the files in `folder` are from `whole` on inputs (1, H, W, 3); near enough?

    Heatmaps, tags of all pixels and values of peaks are compared, but not where peaks are: two of
    nearly equal value may change places.
    """
    onnx = open_onnx(folder / "model.onnx", torch.get_num_threads())
    program = torch.export.load(folder / "model.pt2").module()
    compared = [i for i, name in enumerate(whole.outputs) if name not in PEAKS]
    worst, largest = {"model.onnx": 0.0, "model.pt2": 0.0}, 0.0
    for given in inputs:
        with torch.no_grad():
            expected = whole(torch.from_numpy(given))
            answers = {
                "model.onnx": onnx(given),
                "model.pt2": [output.numpy() for output in program(torch.from_numpy(given))],
            }
        for i in compared:
            truth = expected[i].numpy()
            largest = np.maximum(largest, np.abs(truth).max())
            for name, answer in answers.items():
                worst[name] = np.maximum(worst[name], np.abs(answer[i] - truth).max())
    for name, difference in worst.items():
        print(
            f"{folder / name}: at most {difference:.1e} from PyTorch's numbers, up to {largest:.2g}"
        )
    return all(difference <= ALLOWED * largest for difference in worst.values())


def table_of_people(
    cfg: CfgNode, model: nn.Module, data: EvaluationSet, paths: Sequence[Path]
) -> str:
    """Markdown: AP of PyTorch and of the files on `data`, and how often they find the same."""
    settings = InferenceSettings.from_config(cfg)
    ours = look(data, lambda picture: predict(settings, model, picture))
    rows = [f"| PyTorch | | {precision(data, ours)} | |"]
    for path in paths:
        found = look(data, runner(path))
        same = sum(map(same_people, ours, found))
        size = path.stat().st_size / 2**20
        rows.append(
            f"| {path.name} | {size:.2f} | {precision(data, found)} | {same} of {len(ours)} |"
        )
    head = "| | MiB | AP | AP .5 | AP .75 | pictures with the same people |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def runner(path: Path) -> Finder:
    """What the model at `path` finds in a picture."""
    session, card = open_model(path, torch.get_num_threads())
    return lambda picture: find_people(session, card, picture)


def look(data: EvaluationSet, find: Finder) -> list[Prediction]:
    """What `find` finds in each picture, the best people first."""
    predictions = []
    for picture in tqdm(data.records, leave=False, disable=None):
        people, scores = find(data.files.read(picture))
        order = np.argsort(-np.array(scores), kind="stable")
        predictions.append(Prediction(picture.id, people[order], np.array(scores)[order]))
    return predictions


def precision(data: EvaluationSet, predictions: list[Prediction]) -> str:
    """AP, AP .5 and AP .75, as cells."""
    figures = score_predictions(data, predictions)
    return " | ".join(f"{figure:.3f}" for figure in list(figures.values())[:3])


def same_people(one: Prediction, other: Prediction) -> bool:
    """As many people with the same joints, each at about the same place."""
    if len(one.people) != len(other.people):
        return False
    found = one.people[..., 2] > 0
    if (found != (other.people[..., 2] > 0)).any():
        return False
    distance = np.linalg.norm(one.people[..., :2] - other.people[..., :2], axis=2)
    return bool((distance[found] <= NEAR).all())
