"""A scatter plot with axes, drawn with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Point = tuple[float, float]

LEFT, RIGHT, TOP, BOTTOM = 80, 24, 44, 60  # pixels around the plot
BLACK, GRAY, LIGHT = (0, 0, 0), (130, 130, 130), (225, 225, 225)
BLUE, RED = (31, 97, 180), (205, 40, 40)
FONT = cv2.FONT_HERSHEY_SIMPLEX


class Axes:
    """Maps values to pixels; draws frame, grid and labels on a white canvas."""

    def __init__(self, points: Sequence[Point], size: tuple[int, int]) -> None:
        width, height = size
        self.canvas = np.full((height, width, 3), 255, np.uint8)
        self.box = (LEFT, TOP, width - RIGHT, height - BOTTOM)  # left, top, right, bottom
        columns = list(zip(*points, strict=True))
        self.ticks = [_ticks(min(values), max(values)) for values in columns]

    def pixel(self, point: Point) -> tuple[int, int]:
        left, top, right, bottom = self.box
        x, y = (
            (value - ticks[0]) / (ticks[-1] - ticks[0])
            for value, ticks in zip(point, self.ticks, strict=True)
        )
        return round(left + x * (right - left)), round(bottom - y * (bottom - top))

    def draw(self, title: str, labels: tuple[str, str]) -> None:
        left, top, right, bottom = self.box
        for tick in self.ticks[0]:
            x = self.pixel((tick, self.ticks[1][0]))[0]
            cv2.line(self.canvas, (x, top), (x, bottom), LIGHT, 1)
            self.text(f"{tick:g}", (x, bottom + 18))
        for tick in self.ticks[1]:
            y = self.pixel((self.ticks[0][0], tick))[1]
            cv2.line(self.canvas, (left, y), (right, y), LIGHT, 1)
            self.text(f"{tick:g}", (left - 24, y + 4))
        cv2.rectangle(self.canvas, (left, top), (right, bottom), GRAY, 1)
        self.text(title, ((left + right) // 2, top - 18), 0.5)
        self.text(labels[0], ((left + right) // 2, bottom + 42), 0.5)
        self._text_upward(labels[1], (20, (top + bottom) // 2))

    def text(self, text: str, center: tuple[int, int], scale: float = 0.42) -> None:
        """Black, centered about x, its baseline at y."""
        (width, _), _ = cv2.getTextSize(text, FONT, scale, 1)
        origin = (round(center[0] - width / 2), center[1])
        cv2.putText(self.canvas, text, origin, FONT, scale, BLACK, 1, cv2.LINE_AA)

    def _text_upward(self, text: str, center: tuple[int, int], scale: float = 0.5) -> None:
        (width, height), below = cv2.getTextSize(text, FONT, scale, 1)
        strip = np.full((height + below + 2, width + 2, 3), 255, np.uint8)
        cv2.putText(strip, text, (1, height), FONT, scale, BLACK, 1, cv2.LINE_AA)
        strip = np.rot90(strip)
        top, left = center[1] - strip.shape[0] // 2, center[0] - strip.shape[1] // 2
        room = self.canvas[max(0, top) :, left:][: strip.shape[0], : strip.shape[1]]
        room[:] = strip[: room.shape[0], : room.shape[1]]


def scatter(
    points: Sequence[Point],
    front: Sequence[Point],
    marked: Point,
    title: str,
    labels: tuple[str, str],
    limit: float | None = None,
    size: tuple[int, int] = (720, 480),
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: points, the line of the front, one point ringed, a limit on x.

    `marked` and `front` are among `points`; labels: of x and y; size: width, height.
    """
    shown = list(points) if limit is None else [*points, (limit, marked[1])]
    axes = Axes(shown, size)
    axes.draw(title, labels)
    if limit is not None:
        x = axes.pixel((limit, marked[1]))[0]
        for y in range(axes.box[1], axes.box[3], 8):
            cv2.line(axes.canvas, (x, y), (x, min(y + 4, axes.box[3])), RED, 1)
    for point in points:
        cv2.circle(axes.canvas, axes.pixel(point), 3, GRAY, -1, cv2.LINE_AA)
    line = np.array([axes.pixel(point) for point in front], np.int32)
    cv2.polylines(axes.canvas, [line], False, BLUE, 2, cv2.LINE_AA)
    for point in front:
        cv2.circle(axes.canvas, axes.pixel(point), 4, BLUE, -1, cv2.LINE_AA)
    cv2.circle(axes.canvas, axes.pixel(marked), 8, RED, 2, cv2.LINE_AA)
    return axes.canvas


def _ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from below `low` to above `high`."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.05 * max(abs(low), 0.1), high + 0.05 * max(abs(high), 0.1)
    rough = (high - low) / (most - 1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [round(k * step, 12) for k in range(first, last + 1)]
