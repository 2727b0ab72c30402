"""Find people in images with a network exported by tools/export; numpy and onnxruntime alone.

    python device_runner.py exported/model.onnx a.jpg b.png   # one line of JSON each; needs Pillow

Or call `find_people(*open_model("exported/model.onnx"), image)`. Copy this file to the device.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy import ndarray as Array

TIE = 1e-9  # for equal costs: stronger joints go to people found earlier


def open_model(path: str | Path, threads: int = 0) -> tuple[ort.InferenceSession, dict]:
    """The session of a model on that many threads (0: all cores), and the card next to it."""
    card = json.loads(Path(path).with_name("card.json").read_text())
    if "values" not in card["outputs"]:
        raise ValueError(f"{path} returns maps, not candidates: export it with another --graph")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads sleep
    return ort.InferenceSession(path, options, ["CPUExecutionProvider"]), card


def find_people(session: ort.InferenceSession, card: dict, image: Array) -> tuple[Array, Array]:
    """People (N, K, 3) in pixels of `image` (H, W, 3) uint8 RGB, the best first; N scores.

    x, y, score of each of card["joints"]; 0 where it is missing. Gray and RGBA images work, too.
    """
    images, ratio, center = prepare(card, image)
    outputs = [np.asarray(o)[0] for o in session.run(None, {session.get_inputs()[0].name: images})]
    people = group(card["grouping"], *outputs[:3])
    scores = people[..., 2].mean(axis=1)
    if card["grouping"]["refine"]:
        fill_missing(people, *outputs[-3:])
    middle, has = np.array(images.shape[2:0:-1]) / 2, people[..., 2] > 0
    people[has, :2] = (people[has, :2] - middle) / ratio + center - card["pixel_center"]
    order = np.argsort(-scores, kind="stable")
    return people[order, :, :3], scores[order]


def prepare(card: dict, image: Array) -> tuple[Array, float, Array]:
    """Input (1, H, W, 3) with the image in its center, its pixels per image pixel, the center."""
    image = image[..., None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or image.shape[2:] not in [(1,), (3,), (4,)] or not image.size:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    sides, rules, shift = np.array(image.shape[1::-1]), card["input"], card["pixel_center"]
    if rules["size"]:
        size = np.array(rules["size"])
        ratio = (size / sides).min()
    else:
        multiple = rules["multiple_of"]
        ratio = rules["side"] / (sides.min() if rules["scale_type"] == "short" else sides.max())
        size = ((ratio * sides + multiple - 1) // multiple * multiple).astype(int)
    if size.max() > 2**15:  # of an extremely elongated image
        raise ValueError(f"{sides[0]} x {sides[1]} pixels become an input of {size[0]} x {size[1]}")
    center = (sides / 2 + 0.5).astype(int)
    x, y = ((np.arange(size[i]) + shift - size[i] / 2) / ratio + center[i] for i in (0, 1))
    rows = blend(image[..., :3], y - shift)  # bilinear: one axis, then the other
    pixels = np.rint(blend(rows.swapaxes(0, 1), x - shift)).astype(np.uint8)[None].swapaxes(1, 2)
    return np.repeat(pixels, 3 // pixels.shape[3], axis=3), ratio, center


def blend(rows: Array, at: Array) -> Array:
    """Rows (R, ...) interpolated at places (N,), (N, ...) float32; black beyond the border."""
    first, result = np.floor(at).astype(int), 0
    for index, share in ((first, first + 1 - at), (first + 1, at - first)):
        share = np.where((index >= 0) & (index < len(rows)), share, 0).astype(np.float32)
        result = result + rows[index.clip(0, len(rows) - 1)] * share[:, None, None]
    return result


def group(rules: dict, positions: Array, values: Array, tags: Array) -> Array:
    """Candidates (K, M, 2), (K, M), (K, M, L) -> people (N, K, 3 + L): x, y, value, tags."""
    candidates = np.concatenate([positions, values[..., None], tags], axis=2)
    strong = values > rules["detection_threshold"]
    people = np.zeros((strong.sum(), len(values), candidates.shape[2]), np.float32)
    tag_sums, counts = np.zeros((len(people), tags.shape[2])), np.zeros((len(people), 1))
    person_of: dict[float, int] = {}  # by the first tag value of its first joint
    for joint in rules["joint_order"]:  # its candidates join people of similar tags or start some
        rows, known = candidates[joint, strong[joint]], min(len(person_of), rules["max_people"])
        distance = np.linalg.norm(rows[:, None, 3:] - tag_sums[:known] / counts[:known], axis=2)
        cost = np.rint(distance) * 100 - rows[:, 2:3] if rules["use_detection_val"] else distance
        cost = cost + TIE * np.arange(len(rows), 0, -1)[:, None] * np.arange(known)
        for row, near, who in zip(rows, distance, assign(cost)):  # noqa: B905 (Python < 3.10)
            if who < 0 or near[who] >= rules["tag_threshold"]:
                who = person_of.setdefault(float(row[3]), len(person_of))
                tag_sums[who] = counts[who] = 0
            people[who, joint] = row
            tag_sums[who] += row[3:]
            counts[who] += 1
    return people[: len(person_of)]


def assign(cost: Array) -> Array:
    """(n, N) -> (n,) columns, each at most once, at the least total cost; -1: no column left."""
    if len(cost) > cost.shape[1]:
        column = np.full(len(cost), -1)
        column[assign(cost.T)] = np.arange(cost.shape[1])
        return column
    row_price, price = map(np.zeros, cost.shape)
    row_of = np.full(len(price), -1)
    for new in range(len(cost)):  # by the shortest path to a free column (Jonker & Volgenant 1987)
        length, before = np.full(len(price), np.inf), np.full(len(price), -1)
        done, row, end, total = np.zeros(len(price), bool), new, -1, 0.0
        while row >= 0:
            path = total + cost[row] - row_price[row] - price
            shorter = ~done & (path < length)
            length[shorter], before[shorter] = path[shorter], end
            end = np.where(done, np.inf, length).argmin()
            done[end], row, total = True, row_of[end], length[end]
        passed = done & (row_of >= 0)
        row_price[new] += total
        row_price[row_of[passed]] += total - length[passed]
        price[done] -= total - length[done]
        while end >= 0:
            row_of[end] = row_of[before[end]] if before[end] >= 0 else new
            end = before[end]
    return np.array([np.flatnonzero(row_of == row)[0] for row in range(len(cost))], int)


def fill_missing(people: Array, positions: Array, values: Array, tags: Array) -> None:
    """Add the joints that people lack, in place: the candidate, or any pixel, that fits best."""
    has = people[..., 2] > 0
    means = people[..., 3:].sum(axis=1) / has.sum(axis=1, keepdims=True, dtype=np.float32)
    for person, joint in np.argwhere(~has):
        distance = np.sqrt(np.square(tags[joint] - means[person]).sum(axis=1))
        best = np.argmax(values[joint] - np.rint(distance))
        if values[joint, best] > 0:
            people[person, joint, :3] = *positions[joint, best], values[joint, best]


if __name__ == "__main__":
    from PIL import Image

    names = sys.argv[2:] or sys.exit(__doc__)
    try:
        session, card = open_model(sys.argv[1])
        for name in names:
            people, scores = find_people(session, card, np.array(Image.open(name).convert("RGB")))
            print(json.dumps({"file": name, "scores": scores.tolist(), "people": people.tolist()}))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
