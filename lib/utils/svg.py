"""Drawings whose text stays text: SVG, written by the standard library, which escapes it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

SIZE = 11  # of letters, in pixels
LETTER = 0.6  # width of a letter beside its size, in a font that nobody knows: rather too much
ARROW = "M 0 0 L 6 3 L 0 6 z"


def new_drawing() -> ET.Element:
    """An empty white page; `finish` gives it its size."""
    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg")
    svg.set("font-family", "Helvetica, Arial, sans-serif")
    add(svg, "rect", width="100%", height="100%", fill="white")
    return svg


def finish(svg: ET.Element, width: float, height: float) -> str:
    """The text of an SVG file of so many pixels."""
    size = number(round(width)), number(round(height))
    svg.attrib |= {"width": size[0], "height": size[1], "viewBox": f"0 0 {size[0]} {size[1]}"}
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def add(parent: ET.Element, tag: str, **attributes: object) -> ET.Element:
    """A new element; `stroke_width=1` is written as stroke-width."""
    texts = {name.replace("_", "-"): number(value) for name, value in attributes.items()}
    return ET.SubElement(parent, tag, texts)


def write(
    svg: ET.Element, text: str, x: float, y: float, size: int = SIZE, **attributes: object
) -> None:
    """One line of text, its baseline at y; from x on, where no text_anchor says otherwise."""
    add(svg, "text", x=x, y=y, font_size=size, **attributes).text = text


def text_width(text: str, size: int = SIZE) -> float:
    """Pixels that a line needs at most."""
    return LETTER * size * len(text)


def add_arrow_head(svg: ET.Element, name: str, color: str) -> None:
    """What `arrow` puts at the end of its line."""
    marker = add(svg, "marker", id=name, refX=6, refY=3, markerWidth=6, markerHeight=6)
    marker.set("orient", "auto")
    add(marker, "path", d=ARROW, fill=color)


def arrow(svg: ET.Element, way: tuple[object, ...], color: str, head: str) -> None:
    """A line along `way`, as ("M", 3, 4, "H", 9), with the arrow head of that name."""
    d = " ".join(map(number, way))
    add(svg, "path", d=d, fill="none", stroke=color, marker_end=f"url(#{head})")


def number(value: object) -> str:
    """As it is written: to a tenth of a pixel, words as they are."""
    return f"{round(value, 1):g}" if isinstance(value, float) else str(value)
