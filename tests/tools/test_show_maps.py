"""What is shown of a network's maps lies where it belongs and means what it says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from lib.core.inference import predict, prepare, settings_of
from lib.keypoints import COCO
from lib.utils.checkpoint import save_checkpoint, save_weights
from lib.utils.plot import Axes
from lib.utils.transforms import get_final_preds
from lib.utils.vis import person_color
from tests.helpers import TINY, network, tiny_config
from tools import show_maps
from tools.demo.media import read_image
from tools.make_clip import walk

COLUMNS = (12, 40)  # of the map, on which two people stand
TAGS = (-2.0, 6.0)  # of the joints of each, in the first dimension; half of it in the second
MISSING = 3  # a joint of the second person that has a heatmap below the threshold


@pytest.fixture
def cfg(tmp_path):
    return tiny_config(tmp_path, tmp_path)


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
def seen(cfg, monkeypatch):
    """What is made of a picture whose maps show two people, or others."""

    def look(
        picture: np.ndarray | None = None,
        maps: tuple[torch.Tensor, torch.Tensor] | None = None,
        min_score: float = 0.2,
    ) -> show_maps.Seen:
        picture = np.full((64, 64, 3), 90, np.uint8) if picture is None else picture
        monkeypatch.setattr(show_maps, "network_maps", lambda *_: maps or two_people())
        return show_maps.look(cfg, None, picture, min_score)

    return look


def has(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((picture == np.array(color)).all(axis=2).any())


def rows_with(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.flatnonzero((picture == np.array(color)).all(axis=2).any(axis=1))


# --- where things are -------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["reference", "unbiased"])
@pytest.mark.parametrize("size", [(120, 160), (160, 120), (50, 300), (7, 5), (900, 1200)])
def test_a_peak_is_shown_where_its_joint_is_in_the_picture(tmp_path, size, codec):
    cfg = tiny_config(tmp_path, tmp_path, "MODEL.CODEC", codec)
    picture = np.zeros((*size, 3), np.uint8)
    given = prepare(settings_of(cfg), picture)
    width, height = given.base_size
    y, x = height // 2 - 4, width // 2 + 7
    maps = np.zeros((1, height, width), np.float32)
    maps[0, y, x] = 1
    place = np.array([[[x + 0.5, y + 0.5]]])
    [[joint]] = get_final_preds([place], given.center, given.scale, given.base_size)
    view, scale = show_maps.resized(picture, 452)
    [shown] = show_maps.on_view(maps, given, view, scale, cv2.INTER_NEAREST)
    rows, columns = np.nonzero(shown)
    pixel = scale * given.scale[0] * 200 / width  # of the map, as large as it is shown
    assert shown.shape == view.shape[:2]
    assert abs(columns.mean() - joint[0] * scale) <= 0.5 * pixel + 1
    assert abs(rows.mean() - joint[1] * scale) <= 0.5 * pixel + 1


def test_tags_are_those_of_the_strongest_joint():
    heatmaps = np.zeros((3, 4, 5), np.float32)
    heatmaps[1, 2, 3], heatmaps[2, 2, 3] = 0.4, 0.5
    heatmaps[1, 0, 0] = 0.7
    tags = np.random.default_rng(0).standard_normal((3, 4, 5, 2)).astype(np.float32)
    seen = show_maps.Seen(None, heatmaps, tags, None, None, None)
    strongest = show_maps.strongest_tags(seen)
    assert strongest.shape == (4, 5, 2)
    assert (strongest[2, 3] == tags[2, 2, 3]).all()
    assert (strongest[0, 0] == tags[1, 0, 0]).all()
    one_for_all = seen._replace(tags=tags[:1])
    assert (show_maps.strongest_tags(one_for_all) == tags[0]).all()


def test_tags_are_colored_by_the_bar_and_gray_where_they_mean_nothing():
    view = np.full((10, 101, 3), (200, 40, 90), np.uint8)
    values = np.tile(np.linspace(0, 1, 101), (10, 1))
    where = np.zeros((10, 101), bool)
    where[:5] = True
    colored = show_maps.color_tags(view, values, where, (0.0, 1.0))
    axes = Axes([(0, 0), (1, 1)], (131, 60), (15, 10, 15, 40))
    show_maps.draw_bar(axes, show_maps.TAGS)
    bar = axes.canvas[axes.box[3] + 5, 15:116]
    assert np.abs(colored[2].astype(int) - bar).max() <= 12
    assert np.ptp(colored[5:], axis=2).max() == 0
    assert len(np.unique(colored[2], axis=0)) > 90


def test_one_scale_holds_all_tags_that_are_shown(seen):
    shown = seen()
    assert show_maps.tag_limits(shown, 0.1) == (-2, 6)
    low, high = show_maps.ends_of((-2, 6))
    assert low <= -2 < 6 <= high
    assert show_maps.tag_limits(shown._replace(grouped=shown.grouped[:0]), 0.95) == (0, 1)


# --- people -----------------------------------------------------------------------------


def test_people_are_those_that_predict_finds_the_surest_first(tmp_path):
    cfg = tiny_config(tmp_path, tmp_path, "TEST.DETECTION_THRESHOLD", "0.0")
    model = network(cfg, seed=0).eval()
    [(picture, _)] = walk(0, 3, (160, 120), 1)
    people, scores = predict(cfg, model, picture)
    seen = show_maps.look(cfg, model, picture, -np.inf)
    assert len(seen.people) == len(people) > 1
    assert seen.scores == sorted(scores, reverse=True)
    order = np.argsort(-np.array(scores), kind="stable")
    np.testing.assert_array_equal(seen.people, people[order])
    kept = show_maps.look(cfg, model, picture, seen.scores[1])
    assert kept.scores == seen.scores[: len(kept.scores)]
    assert min(kept.scores) >= seen.scores[1]


def test_only_joints_that_have_tags_of_their_own_are_dots(seen):
    """The joint that is filled in afterwards is drawn on the picture alone."""
    shown = seen()
    assert (shown.people[:, :, 2] > 0).sum(axis=1).tolist() == [17, 17]
    assert (shown.grouped[:, :, 2] > 0).sum(axis=1).tolist() == [17, 16]
    assert set(shown.grouped[0, :, 3]) == {-2}


def test_each_person_has_a_row_with_dots_at_its_tags(seen):
    shown = seen()
    for dimension, tags in enumerate((TAGS, (-1, 3))):
        strip = show_maps.draw_tags(shown, dimension, (-2, 6), 600)
        axes = Axes([(-2, 0), (6, 1)], (600, 100), (96, 34, 24, 50))
        middles = []
        for i, tag in enumerate(tags):
            where = (strip == np.array(person_color(i))).all(axis=2)
            where[-50:] = False  # the bar has all colors
            rows, columns = np.nonzero(where)
            assert np.abs(columns - axes.pixel((tag, 0))[0]).max() <= 6
            middles.append((rows.min() + rows.max()) / 2)
        assert middles[1] - middles[0] == pytest.approx(show_maps.ROW, abs=1)


def test_the_people_of_the_picture_have_the_colors_of_their_rows(seen):
    picture = np.full((64, 64, 3), 90, np.uint8)
    view = show_maps.large_views(picture, seen(picture), COCO, 0.1, (-2, 6))[0]
    columns = [
        np.nonzero((view == np.array(person_color(i))).all(axis=2))[1].mean() for i in (0, 1)
    ]
    assert columns[0] < 452 * 26 / 64 < columns[1]


# --- the sheet --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (3, 400), (400, 3), (1000, 1500)])
def test_every_size_of_a_picture_has_a_sheet(seen, size):
    picture = np.full((*size, 3), 90, np.uint8)
    sheet = show_maps.draw_sheet(picture, seen(picture), COCO, 0.1)
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    assert 17 * 100 * 16 < sheet.size / 3 < 3000 * 3000
    assert all(has(sheet, person_color(i)) for i in (0, 1))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_each_tag_dimension_has_a_map_and_a_strip(seen, dimensions):
    heatmaps, tags = two_people()
    tags = tags[..., :1].repeat(1, 1, 1, 1, dimensions)
    shown = seen(maps=(heatmaps, tags))
    picture = np.full((64, 64, 3), 90, np.uint8)
    assert len(show_maps.large_views(picture, shown, COCO, 0.1, (-2, 6))) == 2 + dimensions
    strips = show_maps.draw_sheet(picture, shown, COCO, 0.1)
    assert has(strips, person_color(1))


def test_a_network_with_one_tag_for_all_joints_has_a_sheet(seen):
    heatmaps, tags = two_people()
    shown = seen(maps=(heatmaps, tags[:, :1]))
    assert len(shown.people) == 2
    show_maps.draw_sheet(np.full((64, 64, 3), 90, np.uint8), shown, COCO, 0.1)


def test_a_picture_without_people_says_so(seen):
    nobody = seen(maps=(torch.zeros(1, 17, 64, 64), torch.zeros(1, 17, 64, 64, 2)))
    assert nobody.people.shape[:2] == (0, 17)
    picture = np.full((64, 64, 3), 90, np.uint8)
    assert has(show_maps.draw_sheet(picture, nobody, COCO, 0.1), (0, 0, 0))
    strip = show_maps.draw_tags(nobody, 0, (0, 1), 600)
    box = strip[34:56, 96:576]
    assert len(rows_with(box, (0, 0, 0))) > 5  # a sentence in place of dots


def test_people_below_the_least_score_are_nobody(seen):
    assert len(seen(min_score=0.2).people) == 2
    assert len(seen(min_score=0.87).people) == 1  # the second lacks a joint
    assert len(seen(min_score=1.0).people) == 0


def test_maps_that_are_not_finite_are_told(seen):
    heatmaps, tags = two_people()
    tags[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="maps are not finite"):
        seen(maps=(heatmaps, tags))


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
    """The tool as it is called, in an empty folder with a picture."""
    monkeypatch.chdir(tmp_path)
    [(picture, _)] = walk(0, 3, (160, 120), 1)
    cv2.imwrite("street.png", picture[..., ::-1])
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
def test_gray_and_transparent_pictures_will_do(call, trained, channels):
    cv2.imwrite("other.png", cv2.cvtColor(cv2.imread("street.png"), channels))
    assert call("--model", trained(), "--input", "other.png").code == 0
    assert read_image(Path("maps.png")).ndim == 3


def test_a_center_joint_is_shown_where_it_is_grouped(call, trained):
    keys = ["DATASET.WITH_CENTER", "True", "DATASET.NUM_JOINTS", "18", "MODEL.NUM_JOINTS", "18"]
    keys += ["TEST.IGNORE_CENTER", "False"]
    done = call("--model", trained(*keys), "--input", "street.png", "--min-score", "0")
    assert done.code == 0
    assert "18 heatmaps" in done.out


def test_joints_of_one_s_own_are_shown_by_their_names(call, trained, monkeypatch):
    described = {"name": "beetle", "joints": ["head", "tail"], "limbs": [], "sigmas": 0.1}
    Path("beetle.yaml").write_text(yaml.safe_dump(described))
    keys = ["DATASET.DATASET", "beetle.yaml", "DATASET.DATASET_TEST", "beetle.yaml"]
    keys += ["DATASET.NUM_JOINTS", "2", "MODEL.NUM_JOINTS", "2"]
    model = trained(*keys)
    Path("beetle.yaml").unlink()  # as on another machine
    texts, title = [], show_maps.titled
    monkeypatch.setattr(show_maps, "titled", lambda *args: texts.append(args[1]) or title(*args))
    assert call("--model", model, "--input", "street.png").code == 0
    assert [text.split(":")[0] for text in texts[-2:]] == ["head", "tail"]


def test_weights_alone_need_to_be_described(call, cfg):
    save_weights("final.pth.tar", network(cfg))
    done = call("--model", "final.pth.tar", "--input", "street.png")
    assert done.code == 2
    assert "name what they are of: --cfg and --superconfig" in done.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--input", "none.jpg"], "cannot read none.jpg: No such file"),
        (["--input", "text.png"], "text.png is not a readable image"),
        (["--input", "."], "cannot read ."),
        (["--model", "model.onnx"], "model.onnx hands out no maps; name the checkpoint"),
        (["--model", "none.pth.tar"], "there is no checkpoint none.pth.tar"),
        (["--out", "no/maps.png"], "cannot write the image no/maps.png"),
        (["--out", "maps.txt"], "cannot write the image maps.txt"),
        (["TEST.FLIP_TESTS", "False"], "did you mean TEST.FLIP_TEST?"),
        (["--input", "sliver.png"], "become an input of"),
    ],
)
def test_a_mistake_is_one_line(call, trained, flags, said):
    Path("text.png").write_text("no picture")
    cv2.imwrite("sliver.png", np.zeros((2, 3000, 3), np.uint8))
    done = call("--model", trained(), "--input", "street.png", *flags)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not Path("maps.png").exists()
