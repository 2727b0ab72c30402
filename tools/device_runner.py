"""Find people with a network exported by tools/export. It needs numpy, onnxruntime >= 1.15.

python device_runner.py exported/model.onnx a.jpg b.png   # one line of JSON each; needs Pillow
people, scores = find_people(*open_model("exported/model.onnx"), image)  # in Python
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy import ndarray as Array


def open_model(path: str | Path, threads: int = 0) -> tuple[ort.InferenceSession, dict]:
    """The session of a model on that many threads (0: all cores), and the card next to it."""
    card = json.loads(Path(path).with_name("card.json").read_text("utf-8"))
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
    if not all(np.isfinite(outputs[i]).all() for i in (1, 2, -2)):
        raise ValueError("the network's maps are not finite")
    scores = (people := group(card["grouping"], *outputs[:3]))[..., 2].mean(axis=1)
    if card["grouping"]["refine"]:
        fill_missing(people, *outputs[-3:])
    middle, has = np.array(images.shape[2:0:-1]) / 2, people[..., 2] > 0
    people[has, :2] = (people[has, :2] - middle) / ratio + center - card["pixel_center"]
    return people[(order := np.argsort(-scores, kind="stable")), :, :3], scores[order]


def prepare(card: dict, image: Array) -> tuple[Array, float, Array]:
    """Input (1, H, W, 3) with the image in its center, its pixels per image pixel, the center."""
    image = image[..., None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or image.shape[2:] not in [(1,), (3,), (4,)] or not image.size:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    sides, rules, shift = np.array(image.shape[1::-1]), card["input"], card["pixel_center"]
    size, multiple = rules["size"], rules["multiple_of"]
    side = sides.min() if rules["scale_type"] == "short" else sides.max()
    ratio = (np.array(size) / sides).min() if size else rules["side"] / side
    size = np.array(size or (ratio * sides + multiple - 1) // multiple * multiple, int)
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
    sums = np.zeros((len(people), tags.shape[2] + 1))  # of each person's tags; their number
    person_of: dict[float, int] = {}  # by the first tag value of its first joint
    for joint in rules["joint_order"]:  # joins people of like tags, the earlier, or starts some
        rows, known = candidates[joint, strong[joint]], min(len(person_of), rules["max_people"])
        means = sums[:known, :-1] / sums[:known, -1:]
        distance = np.linalg.norm(rows[:, None, 3:] - means, axis=2)
        cost = np.rint(distance) * 100 - rows[:, 2:3] if rules["use_detection_val"] else distance
        cost = cost + 1e-9 * np.arange(len(rows), 0, -1)[:, None] * np.arange(known)
        for row, near, who in zip(rows, distance, assign(cost)):  # noqa: B905 (Python < 3.10)
            if who < 0 or near[who] >= rules["tag_threshold"]:
                who = person_of.setdefault(float(row[3]), len(person_of))
                sums[who] = 0
            people[who, joint] = row
            sums[who] += [*row[3:], 1]
    return people[: len(person_of)]


def assign(cost: Array) -> Array:
    """(n, N) -> (n,) columns, each at most once, at the least total cost; -1: no column left."""
    rows, columns = cost.shape
    cost = np.pad(cost, ((0, 0), (1, max(0, rows - columns))))  # column 0 is for a row's start
    row_of, row_price, price = np.full(cost.shape[1], -1), *map(np.zeros, cost.shape)
    for row_of[0] in range(rows):  # by shortest paths to free columns (Jonker & Volgenant 1987)
        length, before = np.full(len(row_of), np.inf), np.zeros(len(row_of), int)
        done, end, length[0] = np.zeros(len(row_of), bool), 0, 0
        while row_of[end] >= 0:
            done[end], row = True, row_of[end]
            path = length[end] + cost[row] - row_price[row] - price
            shorter = ~done & (path < length)
            length[shorter], before[shorter] = path[shorter], end
            end = np.where(done, np.inf, length).argmin()
        drop = length[end] - length[done]
        row_price[row_of[done]] += drop
        price[done] -= drop
        while end > 0:
            row_of[end], end = row_of[before[end]], before[end]
    return np.where((used := row_of[1:].argsort()[len(row_of) - 1 - rows :]) < columns, used, -1)


def fill_missing(people: Array, positions: Array, values: Array, tags: Array) -> None:
    """Add the joints that people lack, in place: the candidate, or any pixel, that fits best."""
    has = people[..., 2] > 0
    means = people[..., 3:].sum(axis=1) / has.sum(axis=1, keepdims=True, dtype=np.float32)
    for person, joint in np.argwhere(~has):
        gap = np.rint(np.linalg.norm(tags[joint] - means[person], axis=1))
        if values[joint, best := np.argmax(values[joint] - gap)] > 0:
            people[person, joint, :3] = *positions[joint, best], values[joint, best]


def read_image(path: str) -> Array:
    """(H, W, 3) or (H, W) uint8, upright; of 16-bit gray the 8 bits from the highest one used."""
    from PIL import Image, ImageOps  # needed here alone

    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "F":
        raise ValueError("the image has floating-point values; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return np.array(image.convert("RGB"))
    gray = np.array(image).astype(int)
    is_8_bit = not (gray % 256).any() or not (gray % 257).any()  # stored as 16
    return (gray >> (8 if is_8_bit else max(0, int(gray.max()).bit_length() - 8))).astype(np.uint8)


if __name__ == "__main__":
    sys.excepthook = lambda *e: print(f"error: {sys.argv[1]}: {e[1]}".strip(), file=sys.stderr)
    opened, failed = open_model(sys.argv[1]) if sys.argv[2:] else sys.exit(__doc__), 0
    for name in sys.argv[2:]:
        try:
            people, scores = find_people(*opened, read_image(name))
            print(json.dumps({"file": name, "scores": scores.tolist(), "people": people.tolist()}))
        except Exception as error:  # Pillow's errors have no common base
            failed = print(f"error: {name}: {error}", file=sys.stderr) or 1
    sys.exit(failed)
