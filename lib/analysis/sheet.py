"""Pictures of a page: the truth, and beside it what was found, matched people in one color."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from lib.analysis.diagnose import MATCH_OKS, NOBODY, Truth, match_best, read_truth
from lib.analysis.ranking import Standing, rank
from lib.core.pipeline import Prediction
from lib.dataset.build import EvaluationSet
from lib.dataset.reader import ImageRecord
from lib.keypoints import KeypointSpec
from lib.utils import html
from lib.utils.vis import caption, draw_named_people, draw_people, save_image, tile

WORST, OTHERS = 12, 6  # pictures shown
NAMES = ("worst", "other", "first")  # that files begin with
SIDE = 640  # pixels of the longer side
MIN_SCORE = 0.2  # of people who are drawn
LEGEND = (
    "First the truth: each person with the OKS of the detection that is matched to them, whatever "
    f"its score (below an OKS of {MATCH_OKS}: missed). Then the people found with a score of at "
    f"least {MIN_SCORE}, with that score. Who is matched has one color in both."
)


def picture_sections(
    folder: Path, data: EvaluationSet, predictions: Sequence[Prediction]
) -> list[str]:
    """HTML about pictures that are written to `folder`, in place of those of a page before."""
    for name in NAMES:
        for old in folder.glob(f"{name}_[0-9][0-9]_*.jpg"):
            old.unlink()
    if not data.has_people:
        return [_first(folder, data, predictions[:WORST])]
    truth = read_truth(data.annotations, data.spec)
    found = {prediction.image_id: prediction for prediction in predictions}

    def figures(standings: Sequence[Standing], name: str) -> str:
        return html.gallery(
            _beside(folder, data, truth[s.image_id], found[s.image_id], s, f"{name}_{n:02d}")
            for n, s in enumerate(standings, 1)
        )

    ranking = rank(data, predictions)
    worst = figures(ranking[:WORST], "worst")
    sections = [html.section("The worst pictures", html.paragraph(LEGEND), worst)]
    rest = [standing for standing in ranking[WORST:] if standing.people]
    if rest:
        places = np.linspace(0, len(rest) - 1, min(OTHERS, len(rest))).round().astype(int)
        others = figures([rest[place] for place in places], "other")
        heading = "Others, evenly drawn from the rest of the ranking"
        sections.append(html.section(heading, others))
    return sections


def _first(folder: Path, data: EvaluationSet, predictions: Sequence[Prediction]) -> str:
    """Where nobody knows which are the worst."""
    said = f"The first pictures, with the people found with a score of at least {MIN_SCORE}."
    figures = [
        _found_only(folder, data, prediction, f"first_{n:02d}")
        for n, prediction in enumerate(predictions, 1)
    ]
    return html.section("People found", html.paragraph(said), html.gallery(figures))


def _beside(
    folder: Path,
    data: EvaluationSet,
    truth: Truth,
    prediction: Prediction,
    standing: Standing,
    name: str,
) -> str:
    """Write NAME_truth.jpg and NAME_found.jpg; a figure of both."""
    picture = _picture(data, prediction)
    labelled, found = truth_and_found(data.files.read(picture), data.spec, truth, prediction)
    pair = {
        "truth": (f"Image {picture.id}, people labelled", labelled),
        "found": (f"Image {picture.id}, people found", found),
    }
    return _figure(
        folder, f"Image {picture.id} ({picture.file_name}): {standing.summary}", name, pair
    )


def _found_only(folder: Path, data: EvaluationSet, prediction: Prediction, name: str) -> str:
    """Write NAME_found.jpg; a figure of it."""
    picture = _picture(data, prediction)
    colors = np.arange(len(prediction.people))
    drawn = draw_found(data.files.read(picture), data.spec, prediction, colors)
    shown = int((np.array(prediction.scores) >= MIN_SCORE).sum())
    said = f"Image {picture.id} ({picture.file_name}): {shown} found"
    return _figure(folder, said, name, {"found": (f"Image {picture.id}, people found", drawn)})


def _figure(
    folder: Path, caption: str, name: str, drawn: Mapping[str, tuple[str, np.ndarray]]
) -> str:
    """Write NAME_<key>.jpg of each (alternative text, picture)."""
    links = {}
    for key, (alt, picture) in drawn.items():
        path = folder / f"{name}_{key}.jpg"
        save_image(path, picture)
        links[f"{folder.name}/{path.name}"] = alt
        height, width = picture.shape[:2]
    return html.pictures(caption, links, (width, height))


def _picture(data: EvaluationSet, prediction: Prediction) -> ImageRecord:
    return next(picture for picture in data.records if picture.id == prediction.image_id)


def contact_sheet(
    data: EvaluationSet,
    predictions: Sequence[Prediction],
    count: int,
    ranking: Sequence[Standing] = (),
    min_score: float = 0.2,
    width: int = 320,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: up to `count` images, ground truth above detections.

    Detections below `min_score` are left out. Images are in the order of `data.records`, or of
    `ranking` with the OKS of each; every image is resized to `width` pixels.
    """
    detections = {prediction.image_id: prediction for prediction in predictions}
    records = {record.id: record for record in data.records if record.id in detections}
    titles = dict.fromkeys(records, "ground truth")
    if ranking:
        records = {standing.image_id: records[standing.image_id] for standing in ranking}
        titles = {standing.image_id: standing.summary for standing in ranking}
    pairs = []
    for record in list(records.values())[:count]:
        image = data.files.read(record)
        confident = np.array(detections[record.id].scores) >= min_score
        people = detections[record.id].people[confident]
        labeled = draw_people(image, record.joints, data.spec)
        detected = draw_people(image, people, data.spec)
        above = caption(labeled, f"{record.id}: {titles[record.id]}")
        below = caption(detected, f"{len(people)} found, score >= {min_score}")
        pair = np.concatenate([above, below])
        height = round(pair.shape[0] * width / pair.shape[1])
        pairs.append(cv2.resize(pair, (width, height), interpolation=cv2.INTER_AREA))
    return tile(pairs, columns=max(1, round(len(pairs) ** 0.5 * 1.4)))


def truth_and_found(
    image: np.ndarray, spec: KeypointSpec, truth: Truth, prediction: Prediction
) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures (h, w, 3) uint8 RGB: people labelled, with their OKS, and found, with scores."""
    xy = prediction.people[:, : spec.num_joints, :2]
    matched = match_best(spec, truth, xy, np.array(prediction.scores, float))
    said = ["missed" if judged else "not judged" for judged in truth.judged]
    colors = len(truth.joints) + np.arange(len(prediction.people))
    for detection, oks, person in zip(*matched, strict=True):
        if person != NOBODY:
            colors[detection] = person
            said[person] = f"{oks[person]:.2f}" if truth.judged[person] else "not judged"
    labelled = np.flatnonzero(truth.labelled.any(axis=1))
    names = [said[person] for person in labelled]
    shown = resized(image)
    joints = scaled(truth.joints[labelled], len(shown) / len(image))
    return (
        draw_named_people(shown, joints, spec, names, labelled.tolist()),
        draw_found(image, spec, prediction, colors),
    )


def draw_found(
    image: np.ndarray, spec: KeypointSpec, prediction: Prediction, colors: np.ndarray
) -> np.ndarray:
    """(h, w, 3) uint8 RGB: people of at least MIN_SCORE, with their scores and colors (N,)."""
    scores = np.array(prediction.scores)
    sure = np.flatnonzero(scores >= MIN_SCORE)
    shown = resized(image)
    people = scaled(prediction.people[sure], len(shown) / len(image))
    names = [f"{score:.2f}" for score in scores[sure]]
    return draw_named_people(shown, people, spec, names, colors[sure].tolist())


def resized(image: np.ndarray) -> np.ndarray:
    """The longer side is SIDE."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def scaled(people: np.ndarray, scale: float) -> np.ndarray:
    """(N, K, 3 or more): places on a picture that is so many times as large."""
    result = np.array(people, float)
    result[..., :2] *= scale
    return result
