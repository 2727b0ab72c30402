"""Scatter plots, families of points, and curves of several runs in panels; drawn with OpenCV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

Point = tuple[float, float]
Color = tuple[int, int, int]

MARGINS = (80, 44, 24, 60)  # pixels around a plot: left, top, right, bottom
PANEL = (400, 250)  # of several: width, height
PANEL_MARGINS = (62, 34, 18, 30)
COLUMNS = 3  # of panels
MEANS = 100  # across a panel: a curve of more points is drawn as means over what it was
MARKED = 20  # points of a curve, up to which each is marked
BLACK, GRAY, LIGHT = (0, 0, 0), (130, 130, 130), (225, 225, 225)
BLUE, RED = (31, 97, 180), (205, 40, 40)
# Wong, "Points of view: Color blindness", Nature Methods 2011, yellow darkened; then two more.
COLORS: tuple[Color, ...] = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233)),
    *((170, 160, 20), (60, 60, 60), (120, 70, 30), (120, 60, 180)),
)
FONT = cv2.FONT_HERSHEY_SIMPLEX


class Axes:
    """Maps values to pixels; draws frame, grid and labels on a white canvas."""

    def __init__(
        self,
        points: Sequence[Point],
        size: tuple[int, int],
        margins: tuple[int, int, int, int] = MARGINS,
        most: int = 7,
        logarithmic: bool = False,
        logarithmic_x: bool = False,
    ) -> None:
        """About `most` ticks on each axis; logarithmic: y, if it is positive and differs much."""
        (width, height), (left, top, right, bottom) = size, margins
        self.canvas = np.full((height, width, 3), 255, np.uint8)
        self.box = (left, top, width - right, height - bottom)  # left, top, right, bottom
        self.logarithmic, self.ticks = [], []  # of x, of y
        for values, wanted in zip(
            zip(*points, strict=True), (logarithmic_x, logarithmic), strict=True
        ):
            low, high = min(values), max(values)
            self.logarithmic.append(wanted and low > 0 and high > 10 * low)
            ticks = _log_ticks if self.logarithmic[-1] else _ticks
            self.ticks.append(ticks(low, high, most))

    def pixel(self, point: Point) -> tuple[int, int]:
        left, top, right, bottom = self.box
        across, up = (self._share(axis, value) for axis, value in enumerate(point))
        return round(left + across * (right - left)), round(bottom - up * (bottom - top))

    def _share(self, axis: int, value: float) -> float:
        """Where between the first and the last tick, 0 to 1."""
        ticks = self.ticks[axis]
        low, high = ticks[0], ticks[-1]
        if self.logarithmic[axis]:
            value, low, high = np.log10((value, low, high))
        return (value - low) / (high - low)

    def draw(self, title: str, labels: tuple[str, str] | None = None) -> None:
        left, top, right, bottom = self.box
        for tick in self.ticks[0]:
            x = self.pixel((tick, self.ticks[1][0]))[0]
            cv2.line(self.canvas, (x, top), (x, bottom), LIGHT, 1)
            self.text(_number(tick), (x, bottom + 18))
        for tick in self.ticks[1]:
            y = self.pixel((self.ticks[0][0], tick))[1]
            cv2.line(self.canvas, (left, y), (right, y), LIGHT, 1)
            (width, _), _ = cv2.getTextSize(_number(tick), FONT, 0.42, 1)
            self.text(_number(tick), (left - 8 - width // 2, y + 4))
        cv2.rectangle(self.canvas, (left, top), (right, bottom), GRAY, 1)
        self.text(title, ((left + right) // 2, top - min(18, top // 3)), 0.5)
        if labels is not None:
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


def families(
    series: Mapping[str, Sequence[tuple[str, Point]]],
    labels: tuple[str, str],
    size: tuple[int, int] = (720, 440),
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: below a legend, named points, those of a family joined by a line.

    The x axis is logarithmic where values differ much. At most as many families as COLORS.
    """
    axes = Axes([p for named in series.values() for _, p in named], size, logarithmic_x=True)
    axes.draw("", labels)
    for named, color in zip(series.values(), COLORS, strict=False):
        _polyline(axes, sorted(point for _, point in named), color, 2)
        for name, point in named:
            x, y = axes.pixel(point)
            cv2.circle(axes.canvas, (x, y), 4, color, -1, cv2.LINE_AA)
            left = max(x - 18, axes.box[0] + 14)  # lines rise to the right
            axes.text(name, (left, y - 8))
    return np.concatenate([_legend(list(series), "", size[0]), axes.canvas])


def curves(
    panels: Mapping[str, Sequence[Sequence[Point]]],
    names: Sequence[str],
    x_label: str,
    logarithmic: Sequence[str] = (),
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: below a legend of `names`, a panel of each title, with shared x axes.

    A panel has a curve for each name, in order of x; it may be empty, but not all of a panel.
    `logarithmic`: titles of panels whose y axis is so, where values are positive and differ much.
    At most as many names as there are COLORS.
    """
    xs = [x for lines in panels.values() for line in lines for x, _ in line]
    drawn = [
        _panel(title, lines, (min(xs), max(xs)), title in logarithmic)
        for title, lines in panels.items()
    ]
    columns = min(COLUMNS, len(drawn))
    drawn += [np.full_like(drawn[0], 255)] * (-len(drawn) % columns)
    rows = [np.concatenate(drawn[i : i + columns], 1) for i in range(0, len(drawn), columns)]
    legend = _legend(names, x_label, columns * PANEL[0])
    return np.concatenate([legend, *rows, np.full_like(legend[:10], 255)])


def _panel(
    title: str, lines: Sequence[Sequence[Point]], x_range: tuple[float, float], logarithmic: bool
) -> np.ndarray:
    """One panel; what a long curve was lies in a light tint below its means."""
    values = [y for line in lines for _, y in line]
    corners = [(x_range[0], min(values)), (x_range[1], max(values))]
    axes = Axes(corners, PANEL, PANEL_MARGINS, 5, logarithmic)
    axes.draw(title)
    for line, color in zip(lines, COLORS, strict=False):
        if len(line) > MEANS:
            tint = tuple(round(255 - 0.3 * (255 - c)) for c in color)
            _polyline(axes, line, tint, 1)
    for line, color in zip(lines, COLORS, strict=False):
        means = _means(line, x_range)
        _polyline(axes, means, color, 2 if len(line) > MEANS else 1)
        for point in means if len(line) <= MARKED else ():
            cv2.circle(axes.canvas, axes.pixel(point), 3, color, -1, cv2.LINE_AA)
    return axes.canvas


def _polyline(axes: Axes, line: Sequence[Point], color: Color, width: int) -> None:
    pixels = np.array([axes.pixel(point) for point in line], np.int32).reshape(-1, 1, 2)
    cv2.polylines(axes.canvas, [pixels], False, color, width, cv2.LINE_AA)


def _means(line: Sequence[Point], x_range: tuple[float, float]) -> Sequence[Point]:
    """The line itself, or a long one's means over equal parts of the x axis."""
    if len(line) <= MEANS:
        return line
    values = np.array(line)
    part = (values[:, 0] - x_range[0]) * MEANS // (x_range[1] - x_range[0])
    part = np.minimum(part, MEANS - 1)  # the last step belongs to the last part
    starts = np.flatnonzero(np.diff(part)) + 1
    return [tuple(group.mean(axis=0)) for group in np.split(values, starts)]


def _legend(names: Sequence[str], x_label: str, width: int) -> np.ndarray:
    """Each name behind a stroke of its color, and what x is, in as many rows as they need."""
    left = PANEL_MARGINS[0]
    x, y, places = left, 26, []
    for text in (*names, x_label):
        (length, _), _ = cv2.getTextSize(text, FONT, 0.5, 1)
        if x > left and x + 34 + length > width:
            x, y = left, y + 22
        places.append((x, y))
        x += length + 64
    strip = np.full((y + 16, width, 3), 255, np.uint8)
    for name, (x, y), color in zip(names, places, COLORS, strict=False):
        cv2.line(strip, (x, y - 5), (x + 26, y - 5), color, 3, cv2.LINE_AA)
        cv2.putText(strip, name, (x + 34, y), FONT, 0.5, BLACK, 1, cv2.LINE_AA)
    cv2.putText(strip, x_label, places[-1], FONT, 0.5, GRAY, 1, cv2.LINE_AA)
    return strip


def _number(value: float) -> str:
    """Short: 0.002, 25, 40k."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten from below `low` to above `high`, and 2 and 5 times them where few are met."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    fine = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    first = max(tick for tick in fine if tick <= low)
    last = min(tick for tick in fine if tick >= high)
    ticks = [tick for tick in fine if first <= tick <= last]
    if len(ticks) <= most:
        return ticks
    step = -(-len(powers) // most)
    return [10.0 ** (powers[0] + k) for k in range(0, len(powers) + step - 1, step)]


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from below `low` to above `high`."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.05 * max(abs(low), 0.1), high + 0.05 * max(abs(high), 0.1)
    rough = (high - low) / (most - 1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [round(k * step, 12) for k in range(first, last + 1)]
