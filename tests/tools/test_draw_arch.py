"""The figure of an architecture says what the network is, and all of it is inside the frame."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.text import Text

from lib.models.arch import ArchSpec, StageSpec, uniform_arch
from lib.models.pieces import pieces_of
from lib.models.pose_mobilenet import LitePose, output_channels
from lib.utils.complexity import count_macs, count_params
from tests.helpers import ROOT, TINY
from tools import draw_arch

SVG = "{http://www.w3.org/2000/svg}"
SEARCHED = [ROOT / f"mobile_configs/search-{size}.json" for size in ("XS", "S", "M", "L")]
MIXED = ArchSpec(
    128,
    160,
    (
        StageSpec(8, 2, ((6, 7), (6, 7), (6, 3), (6, 7))),
        StageSpec(400, 2, ((1, 9),)),
        StageSpec(16, 2, ((12, 5),) * 30),
        StageSpec(8, 1, ((6, 1), (3, 5))),
    ),
    (8, 1000, 16),
)


@pytest.fixture
def call(tmp_path, call_tool, monkeypatch):
    """The tool as it is called, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(call_tool, draw_arch.main)


def figure_of(*archs: tuple[str, ArchSpec], joints: int = 14) -> Figure:
    """The figure, laid out as in a file."""
    figure = draw_arch.draw(archs, joints)
    figure.draw_without_rendering()
    return figure


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.mark.parametrize(
    ("size", "costs"),
    [
        ("XS", "256 px, 1,675,552 parameters, 0.883 GMACs (1.20 by the paper's rule)"),
        ("S", "448 px, 2,731,240 parameters, 3.614 GMACs (4.98 by the paper's rule)"),
        ("M", "448 px, 3,533,808 parameters, 5.264 GMACs (7.84 by the paper's rule)"),
        ("L", "512 px, 5,738,120 parameters, 9.962 GMACs (13.71 by the paper's rule)"),
    ],
)
def test_titles_have_the_published_costs(size, costs):
    name = f"search-{size}"
    arch = ArchSpec.from_json(ROOT / f"mobile_configs/{name}.json")
    assert titles_of(figure_of((name, arch))) == [f"{name}: {costs}"]


@pytest.mark.parametrize("joints", [1, 14, 17])
@pytest.mark.parametrize("arch", [TINY, MIXED], ids=["tiny", "mixed"])
def test_the_parts_are_the_whole_network(arch, joints):
    channels = output_channels(joints, (True, False), True)
    parts = draw_arch.parts_of(arch, joints)
    pieces = [piece for part in parts.values() for piece in part.pieces]
    assert pieces == pieces_of(arch, channels)
    network = LitePose(arch, channels)
    assert draw_arch.params_of(pieces) == count_params(network)
    title = draw_arch.headline("net", arch, parts)
    assert f" {count_params(network):,} parameters" in title
    assert f" {count_macs(network, arch.img_size)['true'] / 1e9:.3f} GMACs" in title


def test_a_part_has_channels_map_layers_and_cost():
    parts = draw_arch.parts_of(ArchSpec.from_json(SEARCHED[0]), 14)
    assert list(parts) == (
        ["stem", "stage 1", "stage 2", "stage 3", "stage 4"]
        + ["deconv 1", "deconv 2", "head 1", "deconv 3", "head 2"]
    )
    assert [part.side for part in parts.values()] == [128, 64, 32, 16, 16, 32, 64, 64, 128, 128]
    cells = {name: part.cells for name, part in parts.items()}
    assert cells["stage 2"][:3] == ["32", "32 × 32", "8 × [6, 7]"]
    assert cells["deconv 1"][:3] == ["16", "32 × 32", "refined 80\nraw 48"]
    assert cells["head 1"][:3] == ["14 + 14 tags", "64 × 64", "refined 24\nraw 16"]
    assert cells["head 2"][:3] == ["14", "128 × 128", "refined 24\nraw 16"]
    # refined: 80 x 16 filters of 4 x 4, raw: 48 x 16, BatchNorm: 2 x 16
    assert cells["deconv 1"][3:] == [f"{(80 + 48) * 16 * 16 + 32:,}", "0.008"]


def test_runs_of_equal_blocks_stand_in_order():
    stage = draw_arch.parts_of(MIXED, 14)["stage 1"]
    assert stage.cells[2] == "2 × [6, 7]\n1 × [6, 3]\n1 × [6, 7]"


FIGURES = {
    "tiny": [("tiny", TINY)],
    "mixed": [("mixed", MIXED)],
    "searched": [(path.stem, ArchSpec.from_json(path)) for path in SEARCHED],
}


@pytest.mark.parametrize("archs", FIGURES.values(), ids=FIGURES)
def test_boxes_arrows_and_text_are_inside_the_frame_and_text_is_apart(archs):
    figure = figure_of(*archs)
    frame = figure.bbox
    boxes = [box for axes in figure.axes for box in axes.patches if isinstance(box, Rectangle)]
    blocks = sum(len(stage.blocks) for _, arch in archs for stage in arch.stages)
    assert len(boxes) == blocks + len(archs) * (1 + 3 + 2)
    arrows = figure.findobj(FancyArrowPatch)
    assert len(arrows) == len(archs) * (9 + 1 + 4)
    ticks = {
        text
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for text in axis.findobj(Text)
    }
    texts = [text for text in figure.findobj(Text) if text.get_text() and text not in ticks]
    for artist in (*boxes, *arrows, *texts):
        extent = artist.get_window_extent()
        assert frame.x0 <= extent.x0 < extent.x1 <= frame.x1
        assert frame.y0 <= extent.y0 < extent.y1 <= frame.y1
    extents = [text.get_window_extent() for text in texts]
    assert not any(
        one.overlaps(other) for i, one in enumerate(extents) for other in extents[i + 1 :]
    )


def test_networks_of_one_figure_are_at_one_scale():
    figure = figure_of(*FIGURES["searched"])
    stems = [next(p for p in axes.patches if isinstance(p, Rectangle)) for axes in figure.axes]
    heights = [stem.get_window_extent().height for stem in stems]
    assert [height / heights[-1] for height in heights] == pytest.approx([0.5, 0.875, 0.875, 1])


def test_hostile_names_are_text_of_a_valid_svg(call):
    name = "<script>&\"'\x01"
    TINY.to_json(f"{name}.json")
    assert call(f"{name}.json").code == 0
    texts = [text.text for text in ET.parse("arch.svg").iter(f"{SVG}text")]
    assert any(
        (text or "").startswith("<script>&\"'\N{REPLACEMENT CHARACTER}: 64 px") for text in texts
    )


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_a_second_figure_replaces_the_first(call, suffix):
    path = Path(f"arch.{suffix}")
    assert call(SEARCHED[0], "--out", path).out == f"search-XS: {path}\n"
    first = path.read_bytes()
    call(SEARCHED[1], "--out", path)
    assert path.read_bytes() != first
    call(SEARCHED[0], "--out", path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["none.json"], "cannot read the architecture none.json"),
        (["bad.json"], "bad.json is not JSON"),
        (["odd.json"], "odd.json: img_size is 100; must be a multiple of 32"),
        (["good.json", "none.json"], "cannot read the architecture none.json"),
        (["good.json", "--joints", "0"], "--joints is 0; must be 1 or more"),
        (["good.json", "--out", "arch.txt"], "cannot write arch.txt"),
        (["good.json", "--out", "no/arch.svg"], "cannot write no/arch.svg: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(call, tmp_path, flags, message):
    TINY.to_json("good.json")
    Path("bad.json").write_text("{")
    Path("odd.json").write_text(json.dumps(TINY.to_dict() | {"img_size": 100}))
    done = call(*flags)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("arch.*"))


@pytest.mark.parametrize("size", [32, 2048])
def test_uniform_architectures_of_any_size_have_a_figure(size):
    arch = uniform_arch(size, 1, (1, 1, 1, 1), (1, 1, 1), depths=(1, 1, 1, 1))
    assert titles_of(figure_of(("net", arch)))[0].startswith(f"net: {size} px")
