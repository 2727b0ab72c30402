"""The figure of an architecture says what the network is, in valid SVG inside its own frame."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import pytest

from lib.models.arch import ArchSpec, StageSpec, uniform_arch
from lib.models.pieces import pieces_of
from lib.models.pose_mobilenet import LitePose, output_channels
from lib.utils.complexity import count_macs, count_params
from lib.utils.svg import SIZE, text_width
from tests.analysis.browser import needs_browser, shown_by_chromium
from tests.helpers import ROOT, TINY
from tools import draw_arch

SVG = "{http://www.w3.org/2000/svg}"
SEARCHED = [ROOT / f"mobile_configs/search-{size}.json" for size in ("XS", "S", "M", "L")]
MIXED = ArchSpec(
    128,
    160,
    (
        StageSpec(8, 2, ((6, 7), (6, 7), (6, 3), (6, 7))),
        *(StageSpec(400, 2, ((1, 9),)), StageSpec(16, 2, ((12, 5),) * 30)),
        StageSpec(8, 1, ((6, 1), (3, 5))),
    ),
    (8, 1000, 16),
)


@pytest.fixture
def call(tmp_path, call_tool, monkeypatch):
    """The tool as it is called, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(call_tool, draw_arch.main)


def texts_of(svg: str) -> list[str]:
    return [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]


def drawn(arch: ArchSpec, joints: int = 14, name: str = "net") -> str:
    return draw_arch.draw([(name, arch)], joints)


@pytest.mark.parametrize(
    ("size", "costs"),
    [
        ("XS", "256 px, 1,675,552 parameters, 0.883 GMACs (1.20 by the paper's rule)"),
        ("S", "448 px, 2,731,240 parameters, 3.614 GMACs (4.98 by the paper's rule)"),
        ("M", "448 px, 3,533,808 parameters, 5.264 GMACs (7.84 by the paper's rule)"),
        ("L", "512 px, 5,738,120 parameters, 9.962 GMACs (13.71 by the paper's rule)"),
    ],
)
def test_titles_have_the_costs_of_the_readme(size, costs):
    name = f"search-{size}"
    arch = ArchSpec.from_json(ROOT / f"mobile_configs/{name}.json")
    assert f"{name}: {costs}" in texts_of(drawn(arch, name=name))
    lines = (ROOT / "README.md").read_text().splitlines()
    [row] = [line for line in lines if line.startswith(f"| {name} |") and "paper" in line]
    resolution, params, gmacs, paper = re.findall(r"\d[\d,.]*\d", costs)
    assert f"| {resolution} | {params} | {gmacs} | {paper} |" in row


@pytest.mark.parametrize("joints", [1, 14, 17])
@pytest.mark.parametrize("arch", [TINY, MIXED], ids=["tiny", "mixed"])
def test_the_parts_are_the_whole_network(arch, joints):
    channels = output_channels(joints, (True, False), True)
    parts = draw_arch.parts_of(arch, joints)
    pieces = [piece for part in parts.values() for piece in part.pieces]
    assert pieces == pieces_of(arch, channels)
    network = LitePose(arch, channels)
    assert draw_arch.params_of(pieces) == count_params(network)
    told = draw_arch.headline("net", arch, parts)
    assert f" {count_params(network):,} parameters" in told
    assert f" {count_macs(network, arch.img_size)['true'] / 1e9:.3f} GMACs" in told


def test_a_part_tells_its_own_channels_map_layers_and_cost():
    parts = draw_arch.parts_of(ArchSpec.from_json(SEARCHED[0]), 14)
    assert list(parts) == (
        ["stem", "stage 1", "stage 2", "stage 3", "stage 4"]
        + ["deconv 1", "deconv 2", "head 1", "deconv 3", "head 2"]
    )
    assert [part.side for part in parts.values()] == [128, 64, 32, 16, 16, 32, 64, 64, 128, 128]
    cells = {name: part.cells for name, part in parts.items()}
    assert cells["stage 2"][:3] == [["32"], ["32 × 32"], ["8 × [6, 7]"]]
    assert cells["deconv 1"][:3] == [["16"], ["32 × 32"], ["refined 80", "raw 48"]]
    assert cells["head 1"][:3] == [["14 + 14 tags"], ["64 × 64"], ["refined 24", "raw 16"]]
    assert cells["head 2"][:3] == [["14"], ["128 × 128"], ["refined 24", "raw 16"]]
    # refined: 80 x 16 filters of 4 x 4, raw: 48 x 16, BatchNorm: 2 x 16
    assert cells["deconv 1"][3:] == [[f"{(80 + 48) * 16 * 16 + 32:,}"], ["0.008"]]


def test_runs_of_equal_blocks_are_told_in_order():
    stage = draw_arch.parts_of(MIXED, 14)["stage 1"]
    assert stage.cells[2] == ["2 × [6, 7]", "1 × [6, 3]", "1 × [6, 7]"]


def frame_of(svg: str) -> tuple[float, float]:
    left, top, width, height = map(float, ET.fromstring(svg).get("viewBox").split())
    assert (left, top) == (0, 0)
    return width, height


FIGURES = {
    "tiny": [("tiny", TINY)],
    "mixed": [("mixed", MIXED)],
    "searched": [(path.stem, ArchSpec.from_json(path)) for path in SEARCHED],
    "named": [("a name that needs more room than all the parts " * 9, TINY)],
}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_all_text_is_inside_the_frame_and_apart(figure):
    """By an estimate of letters that are rather too wide."""
    svg = draw_arch.draw(figure, 14)
    width, height = frame_of(svg)
    lines = {}
    for text in ET.fromstring(svg).iter(f"{SVG}text"):
        length = text_width(text.text, int(text.get("font-size")))
        x = float(text.get("x")) - (length / 2 if text.get("text-anchor") else 0)
        assert x >= 0
        assert x + length <= width
        assert SIZE <= float(text.get("y")) <= height - SIZE / 2
        lines.setdefault(text.get("y"), []).append((x, x + length))
    for places in lines.values():
        places.sort()
        assert all(a[1] < b[0] for a, b in zip(places, places[1:], strict=False))


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_boxes_and_lines_are_inside_the_frame(figure):
    svg = draw_arch.draw(figure, 14)
    width, height = frame_of(svg)
    boxes = [box for box in ET.fromstring(svg).iter(f"{SVG}rect") if box.get("x")]
    blocks = sum(len(stage.blocks) for _, arch in figure for stage in arch.stages)
    assert len(boxes) == blocks + len(figure) * (1 + 3 + 2)
    for box in boxes:
        x, y, w, h = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert 0 < x < x + w < width
        assert 0 < y < y + h < height
        assert min(w, h) >= 3
        assert 0 < float(box.get("fill-opacity")) <= 1
    ways = [path.get("d") for path in ET.fromstring(svg).iter(f"{SVG}path") if path.get("stroke")]
    assert len(ways) == len(figure) * (9 + 5)
    for way in ways:
        assert all(0 < float(n) < max(width, height) for n in re.findall(r"[-\d.]+", way))


def test_networks_of_one_figure_stand_in_the_same_columns_at_one_scale():
    svg = draw_arch.draw(FIGURES["searched"], 14)
    for name in ("stem", "stage 4", "head 2"):
        texts = [text for text in ET.fromstring(svg).iter(f"{SVG}text") if text.text == name]
        assert len(texts) == 4
        assert len({text.get("x") for text in texts}) == 1
    stems = [box for box in ET.fromstring(svg).iter(f"{SVG}rect") if box.get("fill") == "#777777"]
    heights = [float(box.get("height")) for box in stems]
    assert heights == pytest.approx([60, 105, 105, 120])  # of 128, 224, 224 and 256 pixels


def test_hostile_names_are_text():
    svg = drawn(TINY, name="<script>&\"'")
    assert texts_of(svg)[0].startswith("<script>&\"': 64 px")
    assert "<script>" not in svg


def test_the_figure_in_the_docs_is_what_its_command_draws(call, tmp_path):
    assert call(*SEARCHED, "--out", "architectures.svg").code == 0
    fresh = (tmp_path / "architectures.svg").read_text()
    assert fresh == (ROOT / "docs/architectures.svg").read_text()


def test_a_second_figure_replaces_the_first(call):
    assert call(SEARCHED[0]).out == "search-XS: arch.svg\n"
    first = Path("arch.svg").read_text()
    call(*SEARCHED)
    assert Path("arch.svg").read_text() != first
    call(SEARCHED[0])
    assert Path("arch.svg").read_text() == first


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["none.json"], "cannot read the architecture none.json"),
        (["bad.json"], "bad.json is not JSON"),
        (["odd.json"], "odd.json: img_size is 100; must be a multiple of 32"),
        (["good.json", "none.json"], "cannot read the architecture none.json"),
        (["good.json", "--joints", "0"], "--joints is 0; wanted 1 or more"),
        (
            ["good.json", "--out", "arch.png"],
            "--out is arch.png; an architecture is drawn as *.svg",
        ),
        (["good.json", "--out", "no/arch.svg"], "cannot write no/arch.svg: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_drawn(call, tmp_path, flags, said):
    TINY.to_json("good.json")
    Path("bad.json").write_text("{")
    Path("odd.json").write_text(json.dumps(TINY.to_dict() | {"img_size": 100}))
    done = call(*flags)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("arch.*"))


@needs_browser
@pytest.mark.parametrize("figure", ["searched", "mixed"])
def test_a_browser_draws_all_of_it_inside_the_frame(tmp_path, figure):
    """Its own letters, measured: a script reads the boxes of everything drawn."""
    look = """<script>
        const frame = document.querySelector("svg").getBoundingClientRect(), out = [];
        for (const e of document.querySelectorAll("text, svg > rect, svg > path")) {
            const b = e.getBoundingClientRect();
            if (b.left < frame.left || b.right > frame.right + .01 || b.top < frame.top
                || b.bottom > frame.bottom + .01 || b.width + b.height == 0)
                out.push(e.outerHTML);
        }
        document.body.setAttribute("data-outside", out.length);
        document.body.setAttribute("data-texts", document.querySelectorAll("text").length);
    </script>"""
    svg = draw_arch.draw(FIGURES[figure], 14)
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body>{svg}{look}</body>")
    dom = shown_by_chromium(page, tmp_path / "profile")
    assert 'data-outside="0"' in dom
    assert f'data-texts="{len(texts_of(svg))}"' in dom


def test_uniform_architectures_of_any_size_can_be_drawn():
    for size in (32, 2048):
        svg = drawn(uniform_arch(size, 1, (1, 1, 1, 1), (1, 1, 1), depths=(1, 1, 1, 1)))
        assert f"net: {size} px" in texts_of(svg)[0]
