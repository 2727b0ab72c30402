"""Maps lie where they belong on the image, and their colors mean what the sheet says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure

from lib.core.inference import InferenceSettings, find_people, network_maps, prepare
from lib.keypoints import COCO
from lib.utils.checkpoint import save_checkpoint, save_weights
from lib.utils.images import read_image
from lib.utils.transforms import get_final_preds
from lib.utils.vis import person_color, resize_to
from tests.helpers import TINY, network, tiny_config
from tools import show_maps
from tools.make_clip import walk

COLUMNS = (12, 40)  # of the map, on which two people stand
TAGS = (-2.0, 6.0)  # of the joints of each, in the first dimension; half of it in the second
MISSING = 3  # a joint of the second person that has a heatmap below the threshold
GRAY = np.full((64, 64, 3), 90, np.uint8)


@pytest.fixture
def settings(tmp_path):
    return InferenceSettings.from_config(tiny_config(tmp_path, tmp_path))


def two_people(height: int = 64, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Heatmaps (1, 17, H, W) and tags (1, 17, H, W, 2) of two columns of joints."""
    heatmaps = torch.zeros(1, 17, height, width)
    tags = torch.zeros(1, 17, height, width, 2)
    for x, tag in zip(COLUMNS, TAGS, strict=True):
        for k in range(17):
            heatmaps[0, k, 3 + 3 * k, x] = 0.05 if (k, x) == (MISSING, COLUMNS[1]) else 0.9
        tags[0, :, :, x - 5 : x + 6] = torch.tensor([tag, tag / 2])
    return heatmaps, tags


@pytest.fixture
def maps_of(settings, monkeypatch):
    """`read_maps` of an image whose network maps show two people, or others."""

    def read(
        image: np.ndarray = GRAY,
        network_maps: tuple[torch.Tensor, torch.Tensor] | None = None,
        min_score: float = 0.2,
    ) -> show_maps.Maps:
        monkeypatch.setattr(show_maps, "network_maps", lambda *_: network_maps or two_people())
        return show_maps.read_maps(settings, torch.nn.Identity(), image, min_score)

    return read


def sheet_of(maps: show_maps.Maps) -> Figure:
    """The sheet, laid out as in a file."""
    figure = show_maps.draw_sheet(maps, COCO, 0.1)
    figure.draw_without_rendering()
    return figure


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


# --- where things are -------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["reference", "unbiased"])
@pytest.mark.parametrize("size", [(120, 160), (160, 120), (50, 300), (7, 5), (900, 1200)])
def test_a_peak_is_shown_where_its_joint_is_in_the_image(tmp_path, size, codec):
    cfg = tiny_config(tmp_path, tmp_path, "MODEL.CODEC", codec)
    image = np.zeros((*size, 3), np.uint8)
    prepared = prepare(InferenceSettings.from_config(cfg), image)
    width, height = prepared.base_size
    y, x = height // 2 - 4, width // 2 + 7
    maps = torch.zeros(1, height, width)
    maps[0, y, x] = 1
    place = np.array([[[x + 0.5, y + 0.5]]])
    [[joint]] = get_final_preds([place], prepared.center, prepared.scale, prepared.base_size)
    small, scale = resize_to(image, show_maps.SIDE), show_maps.SIDE / max(size)
    [on_image] = show_maps.on_image(maps, prepared, small.shape[1::-1], scale, cv2.INTER_NEAREST)
    rows, columns = np.nonzero(on_image)
    pixel = scale * prepared.scale[0] * 200 / width  # of the map, as large as it is shown
    assert on_image.shape == small.shape[:2]
    assert abs(columns.mean() - joint[0] * scale) <= 0.5 * pixel + 1
    assert abs(rows.mean() - joint[1] * scale) <= 0.5 * pixel + 1


def test_tags_are_those_of_the_joint_with_the_highest_heatmap():
    heatmaps = np.zeros((3, 4, 5), np.float32)
    heatmaps[1, 2, 3], heatmaps[2, 2, 3] = 0.4, 0.5
    heatmaps[1, 0, 0] = 0.7
    tags = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype(np.float32)
    maps = show_maps.Maps(GRAY, heatmaps, tags, GRAY, [], GRAY)
    assert maps.top_tags.shape == (2, 4, 5)
    assert (maps.top_tags[:, 2, 3] == tags[2, :, 2, 3]).all()
    assert (maps.top_tags[:, 0, 0] == tags[1, :, 0, 0]).all()
    one_for_all = maps._replace(tags=tags[:1])
    assert (one_for_all.top_tags == tags[0]).all()


def test_tag_maps_and_their_bar_have_one_scale_and_low_heatmaps_none(maps_of):
    maps = maps_of()
    low, high = show_maps.tag_limits(maps, 0.1)
    assert low < -2 < 6 < high
    figure = sheet_of(maps)
    gray, tags = figure.axes[2].images
    assert tags.get_clim() == (low, high)
    assert (tags.get_array().mask == (maps.heatmaps.max(axis=0) <= 0.1)).all()
    assert {*np.round(tags.get_array().compressed(), 3)} == {-2, 6}
    strip = figure.axes[4]
    [bar] = strip.images
    assert strip.get_xlim() == (low, high)
    assert bar.get_extent()[:2] == [low, high]
    assert np.array_equal(bar.get_array()[0], np.linspace(low, high, 256))


def test_without_tags_there_is_a_scale_too(maps_of):
    maps = maps_of()
    low, high = show_maps.tag_limits(maps._replace(grouped=maps.grouped[:0]), 0.95)
    assert low < 0 < 1 < high


# --- people -----------------------------------------------------------------------------


def test_people_are_those_of_the_maps_best_score_first(tmp_path):
    cfg = tiny_config(tmp_path, tmp_path, "TEST.DETECTION_THRESHOLD", "0.0")
    settings, model = InferenceSettings.from_config(cfg), network(cfg, seed=0).eval()
    [(image, _)] = walk(0, 3, (160, 120), 1)
    inputs = prepare(settings, image)
    people, scores, _ = find_people(settings, *network_maps(settings, model, [inputs]), inputs)
    maps = show_maps.read_maps(settings, model, image, -np.inf)
    assert len(maps.people) == len(people) > 1
    assert maps.scores == sorted(scores, reverse=True)
    order = np.argsort(-np.array(scores), kind="stable")
    scale = show_maps.SIDE / 160
    np.testing.assert_allclose(maps.people, people[order, :, :3] * (scale, scale, 1))
    fewer = show_maps.read_maps(settings, model, image, maps.scores[1])
    assert fewer.scores == maps.scores[: len(fewer.scores)]
    assert min(fewer.scores) >= maps.scores[1]


def test_only_joints_that_were_grouped_are_dots(maps_of):
    """A joint that is filled in afterwards is shown on the image alone."""
    maps = maps_of()
    assert (maps.people[:, :, 2] > 0).sum(axis=1).tolist() == [17, 17]
    for axes, tags in zip(sheet_of(maps).axes[4:6], (TAGS, (-1, 3)), strict=True):
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [len(line.get_xdata()) for line in dots] == [17, 16]
        for row, (line, tag) in enumerate(zip(dots, tags, strict=True)):
            assert set(line.get_xdata()) == {tag}
            assert set(line.get_ydata()) == {row}
            assert np.allclose(line.get_color(), np.array(person_color(row)) / 255)


def test_people_on_the_image_have_the_colors_of_their_rows(maps_of):
    image = sheet_of(maps_of()).axes[0].images[0].get_array()
    columns = [
        np.nonzero((image == np.array(person_color(i))).all(axis=2))[1].mean() for i in (0, 1)
    ]
    assert columns[0] < 452 * 26 / 64 < columns[1]


# --- the sheet --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (3, 400), (400, 3), (1000, 1500)])
def test_every_size_of_an_image_has_a_sheet(maps_of, size):
    figure = sheet_of(maps_of(np.full((*size, 3), 90, np.uint8)))
    width, height = figure.get_size_inches()
    assert width == show_maps.WIDTH
    assert 2 < height < 80
    assert len(titles_of(figure)) == 4 + 2 + 17


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_each_tag_dimension_has_a_map_and_a_strip(maps_of, dimensions):
    heatmaps, tags = two_people()
    tags = tags[..., :1].repeat(1, 1, 1, 1, dimensions)
    titles = titles_of(sheet_of(maps_of(network_maps=(heatmaps, tags))))
    assert sum(title.startswith("its tag") for title in titles) == dimensions
    assert sum(title.startswith("tag") for title in titles) == dimensions


def test_a_network_with_one_tag_for_all_joints_has_a_sheet(maps_of):
    heatmaps, tags = two_people()
    maps = maps_of(network_maps=(heatmaps, tags[:, :1]))
    assert len(maps.people) == 2
    assert len(titles_of(sheet_of(maps))) == 4 + 2 + 17


def test_an_image_without_people_says_so(maps_of):
    nobody = maps_of(network_maps=(torch.zeros(1, 17, 64, 64), torch.zeros(1, 17, 64, 64, 2)))
    assert nobody.people.shape[:2] == (0, 17)
    figure = sheet_of(nobody)
    assert titles_of(figure)[0] == "people found: 0"
    assert [text.get_text() for text in figure.axes[4].texts] == ["nobody was found"]


def test_people_below_the_least_score_are_left_out(maps_of):
    assert len(maps_of(min_score=0.2).people) == 2
    assert len(maps_of(min_score=0.87).people) == 1  # the second lacks a joint
    assert len(maps_of(min_score=1.0).people) == 0


def test_maps_that_are_not_finite_are_an_error(maps_of):
    heatmaps, tags = two_people()
    tags[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="maps are not finite"):
        maps_of(network_maps=(heatmaps, tags))


# --- the tool ---------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path):
    """A checkpoint as a training leaves it, of a network that finds something everywhere."""

    def make(*opts: str) -> Path:
        cfg = tiny_config(tmp_path, tmp_path, "TEST.DETECTION_THRESHOLD", "0.0", *opts)
        state = network(cfg, seed=0).state_dict()
        path = tmp_path / "checkpoint.pth.tar"
        save_checkpoint(path, state_dict=state, arch=TINY.to_dict(), config=cfg.dump())
        return path

    return make


@pytest.fixture
def call(tmp_path, call_tool, monkeypatch):
    """The tool as it is called, in an empty folder with an image."""
    monkeypatch.chdir(tmp_path)
    [(image, _)] = walk(0, 3, (160, 120), 1)
    cv2.imwrite("street.png", image[..., ::-1])
    return partial(call_tool, show_maps.main)


def test_a_checkpoint_alone_is_enough_and_a_second_sheet_replaces_the_first(call, trained):
    model = trained()
    done = call("--model", model, "--input", "street.png", "--min-score", "0")
    assert (done.code, done.err) == (0, "")
    assert "people, 17 heatmaps: maps.png" in done.out
    first = Path("maps.png").read_bytes()
    call("--model", model, "--input", "street.png", "TEST.FLIP_TEST", "False")
    assert Path("maps.png").read_bytes() != first
    call("--model", model, "--input", "street.png", "--min-score", "0")
    assert Path("maps.png").read_bytes() == first


@pytest.mark.parametrize("channels", [cv2.COLOR_BGR2GRAY, cv2.COLOR_BGR2BGRA])
def test_gray_and_transparent_images_will_do(call, trained, channels):
    cv2.imwrite("other.png", cv2.cvtColor(cv2.imread("street.png"), channels))
    assert call("--model", trained(), "--input", "other.png").code == 0
    assert read_image(Path("maps.png")).ndim == 3


def test_a_center_joint_is_shown_where_it_is_grouped(call, trained):
    keys = ["DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18"]
    keys += ["TEST.IGNORE_CENTER", "False"]
    done = call("--model", trained(*keys), "--input", "street.png", "--min-score", "0")
    assert done.code == 0
    assert "18 heatmaps" in done.out


def test_custom_keypoints_are_shown_by_their_names(call, trained):
    described = {"name": "beetle", "joints": ["head", "tail"], "limbs": [], "sigmas": 0.1}
    Path("beetle.yaml").write_text(yaml.safe_dump(described))
    keys = ["DATASET.DATASET", "beetle.yaml", "DATASET.DATASET_TEST", "beetle.yaml"]
    keys += ["DATASET.NUM_JOINTS", "2", "MODEL.NUM_JOINTS", "2"]
    model = trained(*keys)
    Path("beetle.yaml").unlink()  # as on another machine
    assert call("--model", model, "--input", "street.png", "--out", "maps.svg").code == 0
    svg = Path("maps.svg").read_text()
    assert ">head: at most" in svg
    assert ">tail: at most" in svg


def test_weights_alone_need_to_be_described(call, tmp_path):
    save_weights("final.pth.tar", network(tiny_config(tmp_path, tmp_path)))
    done = call("--model", "final.pth.tar", "--input", "street.png")
    assert done.code == 2
    assert "final.pth.tar holds weights alone" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "none.jpg"], "cannot read the image none.jpg: No such file"),
        (["--input", "text.png"], "text.png is not a readable image"),
        (["--input", "."], "cannot read the image ."),
        (["--model", "model.onnx"], "model.onnx returns candidates, not maps; name the checkpoint"),
        (["--model", "none.pth.tar"], "there is no checkpoint none.pth.tar"),
        (["--out", "no/maps.png"], "cannot write no/maps.png"),
        (["--out", "maps.txt"], "cannot write maps.txt"),
        (["TEST.FLIP_TESTS", "False"], "did you mean TEST.FLIP_TEST?"),
        (["--input", "sliver.png"], "become an input of"),
    ],
)
def test_a_mistake_is_one_line(call, trained, flags, message):
    Path("text.png").write_text("no picture")
    cv2.imwrite("sliver.png", np.zeros((2, 3000, 3), np.uint8))
    done = call("--model", trained(), "--input", "street.png", *flags)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not Path("maps.png").exists()
