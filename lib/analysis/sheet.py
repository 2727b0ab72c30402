"""Images of an evaluation: ground truth and detections, with matched people in one color."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lib.analysis.diagnose import MATCH_OKS, NOBODY, Labels, labels_by_image, match
from lib.analysis.ranking import Standing, rank
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.keypoints import KeypointSpec
from lib.utils.vis import caption, draw_people, resize_to, save_image, tile

WORST, OTHERS = 12, 6  # images of a page
PREFIXES = ("worst", "other", "first")  # of their file names
TRUTH, FOUND = "truth", "found"  # last words of their file names
SIDE = 640  # pixels of the longer side
MIN_SCORE = 0.2  # of rendered detections
WIDTH = 320  # pixels of an image on a contact sheet
LEGEND = (
    "First the ground truth: each person with the OKS of the matched detection, whatever its score "
    f"(below an OKS of {MATCH_OKS}: missed). Then the detections with a score of at least "
    f"{MIN_SCORE}, with this score. A person and the matched detection have the same color."
)


class Figure(NamedTuple):
    """An image of the split as one file (detections) or two (ground truth, detections)."""

    caption: str
    files: dict[str, str]  # link -> alternative text
    width: int  # of each file, in pixels
    height: int


class Gallery(NamedTuple):
    """A section of the page."""

    heading: str
    text: str
    figures: list[Figure]


def write_galleries(
    folder: Path, data: EvaluationSet, predictions: Sequence[Prediction]
) -> list[Gallery]:
    """Write the images of a page to `folder`, replacing those of an earlier page.

    The worst images and a sample of the others; without ground truth, the first ones.
    """
    for prefix in PREFIXES:
        for old in folder.glob(f"{prefix}_[0-9][0-9]_*.jpg"):
            old.unlink()
    records = {record.id: record for record in data.records}
    detections = {prediction.image_id: prediction for prediction in predictions}
    labels = labels_by_image(data.ground_truth, data.spec) if data.has_people else {}

    def figures(prefix: str, summaries: Mapping[int, str]) -> list[Figure]:
        """One figure for each image id, captioned with its summary."""
        made = []
        for number, (image_id, summary) in enumerate(summaries.items(), start=1):
            record, prediction = records[image_id], detections[image_id]
            image = data.files.read(record)
            if labels:
                images = draw_pair(image, data.spec, labels[image_id], prediction)
            else:
                colors = np.arange(len(prediction.people))
                images = {FOUND: draw_detections(image, data.spec, prediction, colors)}
            text = f"Image {image_id} ({record.file_name}): {summary}"
            made.append(_write_figure(folder / f"{prefix}_{number:02d}", text, image_id, images))
        return made

    if not labels:
        text = f"The first images, with the detections of a score of at least {MIN_SCORE}."
        counts = {
            prediction.image_id: f"{sum(score >= MIN_SCORE for score in prediction.scores)} found"
            for prediction in predictions[:WORST]
        }
        return [Gallery("People found", text, figures("first", counts))]
    ranking = rank(data, predictions)
    galleries = [Gallery("Worst images", LEGEND, figures("worst", _summaries(ranking[:WORST])))]
    rest = [standing for standing in ranking[WORST:] if standing.people]
    if rest:
        places = np.linspace(0, len(rest) - 1, min(OTHERS, len(rest))).round().astype(int)
        sample = _summaries([rest[place] for place in places])
        text = "From the rest of the ranking, in even steps."
        galleries.append(Gallery("Other images", text, figures("other", sample)))
    return galleries


def _summaries(standings: Sequence[Standing]) -> dict[int, str]:
    return {standing.image_id: standing.summary for standing in standings}


def _write_figure(stem: Path, text: str, image_id: int, images: Mapping[str, np.ndarray]) -> Figure:
    """Write STEM_truth.jpg and STEM_found.jpg, as far as they are in `images`; all of one size."""
    alternatives = {TRUTH: "ground truth", FOUND: "people found"}
    files = {}
    for kind, image in images.items():
        path = stem.with_name(f"{stem.name}_{kind}.jpg")
        save_image(str(path), image)
        files[f"{stem.parent.name}/{path.name}"] = f"Image {image_id}, {alternatives[kind]}"
    height, width = images[FOUND].shape[:2]
    return Figure(text, files, width, height)


# --- rendering --------------------------------------------------------------------------


def draw_pair(
    image: np.ndarray, spec: KeypointSpec, labels: Labels, prediction: Prediction
) -> dict[str, np.ndarray]:
    """Ground truth with OKS and detections with scores: two images (h, w, 3) uint8 RGB."""
    xy = prediction.people[:, : spec.num_joints, :2]
    matching = match(spec, labels, xy, np.array(prediction.scores, float))
    names = ["missed" if judged else "not judged" for judged in labels.judged]
    colors = len(labels.joints) + np.arange(len(prediction.people))
    for index, oks, person in zip(matching.index, matching.oks, matching.person, strict=True):
        if person != NOBODY:
            colors[index] = person
            names[person] = f"{oks[person]:.2f}" if labels.judged[person] else "not judged"
    labelled = np.flatnonzero(labels.labelled.any(axis=1))
    small = resize_to(image, SIDE)
    joints = scaled(labels.joints[labelled], len(small) / len(image))
    labelled_names = [names[person] for person in labelled]
    return {
        TRUTH: draw_people(small, joints, spec, names=labelled_names, colors=labelled),
        FOUND: draw_detections(image, spec, prediction, colors),
    }


def draw_detections(
    image: np.ndarray, spec: KeypointSpec, prediction: Prediction, colors: np.ndarray
) -> np.ndarray:
    """(h, w, 3) uint8 RGB: detections of at least MIN_SCORE with scores; colors: (N,) numbers."""
    scores = np.array(prediction.scores)
    confident = np.flatnonzero(scores >= MIN_SCORE)
    small = resize_to(image, SIDE)
    people = scaled(prediction.people[confident], len(small) / len(image))
    names = [f"{score:.2f}" for score in scores[confident]]
    return draw_people(small, people, spec, names=names, colors=colors[confident])


def scaled(people: np.ndarray, scale: float) -> np.ndarray:
    """A copy of people (N, K, 3 or more) with x and y multiplied by `scale`."""
    result = np.array(people, float)
    result[..., :2] *= scale
    return result


def contact_sheet(
    data: EvaluationSet,
    predictions: Sequence[Prediction],
    count: int,
    ranking: Sequence[Standing] = (),
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: up to `count` images, ground truth above detections.

    Detections below MIN_SCORE are left out. Images are in the order of `data.records`, or of
    `ranking` with the OKS of each.
    """
    detections = {prediction.image_id: prediction for prediction in predictions}
    records = {record.id: record for record in data.records if record.id in detections}
    titles = _summaries(ranking) or dict.fromkeys(records, "ground truth")
    pairs = []
    for image_id, title in list(titles.items())[:count]:
        record, prediction = records[image_id], detections[image_id]
        image = data.files.read(record)
        people = prediction.people[np.array(prediction.scores) >= MIN_SCORE]
        labelled = draw_people(image, record.joints, data.spec)
        detected = draw_people(image, people, data.spec)
        above = caption(labelled, f"{image_id}: {title}")
        below = caption(detected, f"{len(people)} found, score >= {MIN_SCORE}")
        pair = np.concatenate([above, below])
        height = round(pair.shape[0] * WIDTH / pair.shape[1])
        pairs.append(cv2.resize(pair, (WIDTH, height), interpolation=cv2.INTER_AREA))
    return tile(pairs, columns=max(1, round(len(pairs) ** 0.5 * 1.4)))
