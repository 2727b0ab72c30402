"""A page of tables, curves and pictures in one HTML file: no script, nothing from elsewhere.

All text that these functions take is escaped; what they return is HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

# Blue, vermilion and green after Wong, "Points of view: Color blindness", Nature Methods 2011.
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2227; --quiet: #56616b; --line: #d8dde2; --tint: #cfe4f3;
  --c0: #0072b2; --c1: #c24f00; --c2: #007a59;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15191d; --ink: #e4e8eb; --quiet: #a0abb5; --line: #343c44; --tint: #1d4560;
    --c0: #64b9ec; --c1: #f2a263; --c2: #4fd0a4;
  }
}
html { background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--c0); }
.quiet, caption, figcaption, dt, summary { color: var(--quiet); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: .5rem 0; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
ul.lines { padding-left: 1.25rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; font-weight: normal; }
thead th { border-bottom: 1px solid var(--quiet); font-weight: 600; }
tbody th, tbody td { border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: 0; }
tbody th { position: sticky; left: 0; background: var(--paper); }
td.bar {
  min-width: 7rem;
  background: linear-gradient(to right, var(--tint) calc(var(--share) * 100%), transparent 0);
}
figure { margin: .75rem 0; }
figcaption { font-size: .9rem; margin-top: .3rem; max-width: 46rem; overflow-wrap: anywhere; }
svg.chart { display: block; width: 100%; max-width: 38rem; height: auto; }
svg text { fill: var(--ink); font-size: 14px; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); fill: none; }
.curve { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.c0 { stroke: var(--c0); }
.c1 { stroke: var(--c1); stroke-dasharray: 9 4; }
.c2 { stroke: var(--c2); stroke-dasharray: 3 3; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; padding: 0; }
.legend svg { width: 2rem; height: .6rem; margin-right: .5rem; }
.pictures { display: grid; gap: 1.75rem 1.5rem; margin-top: 1rem; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
.pictures figure { margin: 0; }
.pair { display: flex; flex-wrap: wrap; gap: .4rem; }
.pair a { flex: 1 1 13rem; }
.pair img { display: block; width: 100%; height: auto; }
@media (max-width: 30rem) { td.bar { min-width: 4.5rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; }
  tr, figure { break-inside: avoid; }
  .wide { overflow: visible; }
  td.bar { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

CHART = (460, 340)  # width and height; text is 14 high
MARGINS = (54, 12, 12, 48)  # left, top, right, bottom
TICKS = (0, 0.2, 0.4, 0.6, 0.8, 1)


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page: the title as its heading, then the parts."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{''.join(parts)}</section>\n"


def paragraph(text: str, quiet: bool = False) -> str:
    return f"<p{' class=quiet' if quiet else ''}>{escape(text)}</p>\n"


def facts(named: Mapping[str, str]) -> str:
    """Names and what they stand for, side by side."""
    lines = (f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>\n" for name, fact in named.items())
    return f"<dl>\n{''.join(lines)}</dl>\n"


def bullets(lines: Iterable[str]) -> str:
    items = (f"<li>{escape(line)}</li>\n" for line in lines)
    return f'<ul class="lines">\n{"".join(items)}</ul>\n'


def folded(summary: str, text: str) -> str:
    """Text as it is, which the reader may open."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>\n"


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], bar: int | None = None
) -> str:
    """The first column names the rows; the numbers (0 to 1) of column `bar` lie on bars."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = (
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_cell(value, place == bar) for place, value in enumerate(values, 1))
        + "</tr>\n"
        for name, *values in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}">\n'
        f"<table>\n<caption>{escape(caption)}</caption>\n<thead><tr>{names}</tr></thead>\n"
        f"<tbody>\n{''.join(lines)}</tbody>\n</table>\n</div>\n"
    )


def _cell(value: str, on_bar: bool) -> str:
    try:
        share = float(value) if on_bar else None
    except ValueError:  # no number
        share = None
    if share is None:
        return f"<td>{escape(value)}</td>"
    return f'<td class="bar" style="--share: {share:.3f}">{escape(value)}</td>'


def chart(caption: str, labels: tuple[str, str], curves: Mapping[str, Sequence[float]]) -> str:
    """At most three curves of values 0 to 1 at equal steps over 0 to 1; labels: of x and y."""
    left, top, right, bottom = (
        *MARGINS[:2],
        *(size - margin for size, margin in zip(CHART, MARGINS[2:], strict=True)),
    )
    grid, middle = [], (left + right) / 2
    for tick in TICKS:
        x, y = left + tick * (right - left), bottom - tick * (bottom - top)
        grid.append(f'<path class="grid" d="M{x:.1f} {top}V{bottom}M{left} {y:.1f}H{right}"/>')
        grid.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
        grid.append(f'<text x="{left - 8}" y="{y + 5:.1f}" text-anchor="end">{tick:g}</text>')
    names = [
        f'<text x="{middle}" y="{bottom + 40}" text-anchor="middle">{escape(labels[0])}</text>',
        f'<text transform="translate(15 {(top + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(labels[1])}</text>',
    ]
    drawn, legend = [], []
    for number, (name, values) in enumerate(curves.items()):
        step = (right - left) / (len(values) - 1)
        points = " ".join(
            f"{left + k * step:.1f},{bottom - value * (bottom - top):.1f}"
            for k, value in enumerate(values)
        )
        drawn.append(f'<polyline class="curve c{number}" points="{points}"/>')
        sample = f'<path class="curve c{number}" d="M0 4H32"/>'
        legend.append(
            f'<li><svg viewBox="0 0 32 8" aria-hidden="true">{sample}</svg>{escape(name)}</li>\n'
        )
    return (
        f'<figure>\n<svg class="chart" viewBox="0 0 {CHART[0]} {CHART[1]}" role="img" '
        f'aria-label="{escape(caption)}">\n{"".join([*grid, *names, *drawn])}\n</svg>\n'
        f'<ul class="legend">\n{"".join(legend)}</ul>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )


def gallery(figures: Iterable[str]) -> str:
    return f'<div class="pictures">\n{"".join(figures)}</div>\n'


def pictures(caption: str, sources: Mapping[str, str], size: tuple[int, int]) -> str:
    """Pictures of one size (width, height) beside one another; sources: link -> what it shows."""
    shown = "".join(
        f'<a href="{escape(link)}"><img src="{escape(link)}" alt="{escape(said)}" '
        f'width="{size[0]}" height="{size[1]}"></a>\n'
        for link, said in sources.items()
    )
    return (
        f'<figure>\n<div class="pair">\n{shown}</div>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )
