"""People are drawn and listed in whatever comes in; whatever goes wrong is one line."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO as Annotations

import lib.predictor
from lib.core.inference import predict
from lib.keypoints import COCO, KeypointSpec
from lib.predictor import People, Predictor
from lib.utils import cli
from lib.utils.checkpoint import save_checkpoint
from lib.utils.images import read_image
from lib.utils.vis import save_image
from tests.helpers import TINY, Result, full_disk, network, tiny_config
from tools import device_runner
from tools.demo import __main__ as demo
from tools.demo.media import Timing, find_sources
from tools.demo.video import read_video
from tools.demo.writer import VideoFile
from tools.export import __main__ as export
from tools.make_clip import walk

GRAY = 100
SIZE = 40  # pixels, of a person


def scene(*places: tuple[int, int], size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """Gray, with a white point for each person."""
    picture = np.full((*size[::-1], 3), GRAY, np.uint8)
    for x, y in places:
        picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    return picture


def points_of(picture: np.ndarray) -> np.ndarray:
    """(N, 2): the white points of a scene, from left to right."""
    white = np.uint8(picture.min(axis=2) > 200)
    _, _, _, centers = cv2.connectedComponentsWithStats(white)
    return centers[1:][np.argsort(centers[1:, 0])]


def find(image: np.ndarray, min_score: float = 0.0) -> People:
    """Somebody around each point; the more to the right, the less sure."""
    shape = np.random.default_rng(0).uniform(-0.5, 0.5, (17, 2)) * SIZE
    points = points_of(image)
    people = np.zeros((len(points), 17, 3))
    people[..., :2] = points[:, None] + shape
    people[..., 2] = 0.9
    scores = np.array([0.9 - 0.1 * i for i in range(len(points))])
    sure = scores >= min_score
    return People(people[sure], scores[sure], np.zeros((sure.sum(), 17, 1)))


class PointPredictor(NamedTuple):
    """Finds white points; in place of a Predictor."""

    prepare: Callable[[Any], Any] = lambda image: image
    compute: Callable[[Any], Any] = lambda image: image
    group: Callable[..., People] = find
    keypoints: KeypointSpec = COCO
    callers: int = 2


POINTS = PointPredictor()


@pytest.fixture
def run_demo(tmp_path, capsys, caplog):
    """The demonstration with a network that sees white points; its output is in `out`."""

    def run(*inputs: object, predictor: Any = POINTS, **flags) -> Result:
        capsys.readouterr()
        caplog.clear()
        sources = find_sources([str(given) for given in inputs])
        code = cli.code_of(lambda: demo.process(predictor, sources, tmp_path / "out", **flags))
        shown = capsys.readouterr()
        return Result(code or 0, shown.out, "".join(caplog.messages) + shown.err)

    return run


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def clip(tmp_path):
    """Writes a video of such images."""

    def make(images: list[np.ndarray], name: str = "clip") -> Path:
        file = VideoFile(tmp_path / name, Timing.of(10), images[0])
        for i, image in enumerate(images):
            file.write(image, i / 10)
        file.close()
        return file.path

    return make


def picture_file(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, picture)
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    return [frame.image for frame in read_video(find_sources([str(path)])[0])]


def rows_of(out: Path) -> list[dict]:
    return json.loads((out / "results.json").read_text())


def listed(out: Path) -> list[dict]:
    return json.loads((out / "images.json").read_text())["images"]


def is_one_line(text: str) -> bool:
    return text.count("\n") == 1 and "Traceback" not in text


# --- images ---------------------------------------------------------------------------


def test_people_are_rendered_on_a_image_and_listed(run_demo, out, tmp_path):
    given = picture_file(tmp_path / "in/a.png", scene((60, 70)))
    assert run_demo(given).code == 0
    [row], [image] = rows_of(out), listed(out)
    assert row["image_id"] == image["id"] == 1
    assert row["score"] == 0.9
    xy = np.array(row["keypoints"]).reshape(17, 3)
    np.testing.assert_allclose(xy, find(scene((60, 70)))[0][0, :, :3], atol=1e-3)
    assert image["file_name"] == str(given)
    assert (image["width"], image["height"]) == (160, 120)
    drawn = read_image(out / image["drawn"])
    changed = np.abs(drawn.astype(int) - scene((60, 70))).max(axis=2) > 40
    x, y, _ = xy.round().astype(int).T
    assert changed[y, x].all()
    assert not changed[:, 110:].any()


def test_what_was_found_loads_as_coco_results(run_demo, out, tmp_path):
    for i in range(3):
        picture_file(tmp_path / f"in/{i}.png", scene(*[(30 + 50 * p, 60) for p in range(i)]))
    assert "3 people in 3 images" in run_demo(tmp_path / "in").out
    results = Annotations(str(out / "images.json")).loadRes(str(out / "results.json"))
    assert [len(results.getAnnIds(imgIds=i)) for i in (1, 2, 3)] == [0, 1, 2]


def test_a_image_without_people_comes_out_as_it_is(run_demo, out, tmp_path):
    picture_file(tmp_path / "in/a.png", scene())
    assert run_demo(tmp_path / "in").code == 0
    assert (read_image(out / "a.png") == scene()).all()
    assert rows_of(out) == []


def test_whoever_is_less_sure_than_asked_for_is_left_out(run_demo, out, tmp_path):
    picture_file(tmp_path / "in/a.png", scene((30, 60), (80, 60), (130, 60)))
    run_demo(tmp_path / "in", min_score=0.8)
    assert [row["score"] for row in rows_of(out)] == [0.9, 0.8]


def test_the_same_name_twice_gives_two_files(run_demo, out, tmp_path):
    for name in ("one/a.png", "other/a.png", "other/a.jpg", "other/a_2.png"):
        picture_file(tmp_path / name, scene())
    run_demo(tmp_path / "one", tmp_path / "other")
    names = [image["drawn"] for image in listed(out)]
    assert names == ["a.png", "a_2.jpg", "a_3.png", "a_2_2.png"]
    assert all((out / name).exists() for name in names)


def test_the_second_run_replaces_the_first(run_demo, out, tmp_path):
    picture_file(tmp_path / "in/a.png", scene((60, 60)))
    assert run_demo(tmp_path / "in").code == run_demo(tmp_path / "in").code == 0
    assert len(rows_of(out)) == len(listed(out)) == 1


def test_a_image_that_cannot_be_read_is_named_and_left_out(run_demo, out, tmp_path):
    picture_file(tmp_path / "in/a.png", scene())
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    picture_file(tmp_path / "in/c.png", scene())
    done = run_demo(tmp_path / "in")
    assert done.code == 1
    assert "b.png is not a readable image" in done.err
    assert [image["drawn"] for image in listed(out)] == ["a.png", "c.png"]


def test_a_image_alone_that_cannot_be_read_is_a_mistake(run_demo, tmp_path):
    (tmp_path / "b.png").write_bytes(b"no picture")
    done = run_demo(tmp_path / "b.png")
    assert done.code == cli.MISTAKE
    assert is_one_line(done.err)
    assert "b.png" in done.err


def test_images_are_never_written_over_themselves(run_demo, out):
    picture_file(out / "a.png", scene((60, 60)))
    done = run_demo(out)
    assert done.code == cli.MISTAKE
    assert "is the folder of" in done.err
    assert (read_image(out / "a.png") == scene((60, 60))).all()


def test_photos_that_links_lead_to_are_never_written_over(run_demo, out, tmp_path):
    """An album of links, with --out the album, or the folder of the photos."""
    photo = picture_file(tmp_path / "photos/a.png", scene((60, 60)))
    out.mkdir()
    (out / "a.png").symlink_to(photo)
    done = run_demo(out)
    assert done.code == cli.MISTAKE
    assert "is the folder of" in done.err
    assert (out / "a.png").is_symlink()
    assert run_demo(photo).code == 0  # the link is replaced, not what it leads to
    assert not (out / "a.png").is_symlink()
    assert (read_image(photo) == scene((60, 60))).all()


def test_names_that_are_not_utf8_are_read_drawn_and_listed(run_demo, out, clip, tmp_path):
    name = "caf\udcff \x1b[31m\n"
    picture_file(tmp_path / f"in/{name}b.png", scene((60, 60)))
    clip([scene((60, 60))] * 3).rename(tmp_path / f"in/{name}.mp4")
    assert run_demo(tmp_path / "in").code == 0
    assert {file.name for file in out.iterdir()} == {
        f"{name}.mp4",
        f"{name}b.png",
        "images.json",
        "results.json",
    }
    assert {image["drawn"] for image in listed(out)} == {f"{name}.mp4", f"{name}b.png"}
    assert len(frames_of(out / f"{name}.mp4")) == 3


def test_as_many_candidates_as_the_settings_allow_are_reported_once(run_demo, out, tmp_path):
    def find_at_most_three(image: np.ndarray, min_score: float) -> People:
        return find(image, min_score)._replace(is_full=len(find(image, 0).scores) >= 3)

    limited = POINTS._replace(group=find_at_most_three)
    picture_file(tmp_path / "in/a.png", scene((40, 60), (80, 60)))
    assert "there may be more" not in run_demo(tmp_path / "in", predictor=limited).err
    for name in "bc":
        picture_file(tmp_path / f"in/{name}.png", scene((40, 60), (80, 60), (120, 60)))
    done = run_demo(tmp_path / "in", predictor=limited, min_score=0.75)
    assert done.code == 0
    assert done.err.count("b.png: 2 people; there may be more: a joint was found DATASET.MAX") == 1
    assert "a.png" not in done.err
    assert "c.png" not in done.err


def test_a_full_disk_is_one_line_and_leaves_lists_that_are_json(run_demo, out, tmp_path):
    picture_file(tmp_path / "in/a.png", scene((60, 60)))
    picture_file(tmp_path / "in/b.png", np.random.default_rng(0).integers(0, 99, (99, 99, 3), "u1"))
    with full_disk(10_000):
        done = run_demo(tmp_path / "in")
    assert done.code == cli.MISTAKE
    assert is_one_line(done.err)
    assert "b.png: File too large" in done.err
    assert [image["drawn"] for image in listed(out)] == ["a.png"]
    assert len(rows_of(out)) == 1
    assert sorted(file.name for file in out.iterdir()) == ["a.png", "images.json", "results.json"]


def test_a_folder_that_cannot_be_written_is_one_line(run_demo, out, tmp_path):
    picture_file(tmp_path / "in/a.png", scene())
    out.write_text("a file")
    done = run_demo(tmp_path / "in")
    assert done.code == cli.MISTAKE
    assert is_one_line(done.err)


# --- videos -----------------------------------------------------------------------------


def test_a_video_comes_out_with_as_many_frames_of_the_same_size(run_demo, out, clip):
    path = clip([scene((30 + i, 60)) for i in range(12)])
    assert run_demo(path).code == 0
    frames = frames_of(out / "clip.mp4")
    assert len(frames) == 12
    assert frames[0].shape == (120, 160, 3)
    assert [image["frame"] for image in listed(out)] == list(range(1, 13))
    assert [row["image_id"] for row in rows_of(out)] == list(range(1, 13))
    assert not any("track_id" in row for row in rows_of(out))


def test_frames_of_a_video_are_listed_and_written_with_their_times(run_demo, out, tmp_path):
    seconds = [0.0, 0.1, 0.11, 0.5, 2.0]
    file = VideoFile(tmp_path / "clip", Timing(Fraction(1, 1000), Fraction(10)), scene())
    for i, time in enumerate(seconds):
        file.write(scene((30 + i, 60)), time)
    file.close()
    assert run_demo(file.path).code == 0
    assert [image["time"] for image in listed(out)] == seconds
    [source] = find_sources([str(out / "clip.mp4")])
    assert [frame.seconds for frame in read_video(source)] == seconds


def test_a_disk_that_fills_under_a_video_is_one_line_at_once(run_demo, out, clip):
    rng = np.random.default_rng(0)
    path = clip([rng.integers(0, 99, (120, 160, 3), np.uint8) for _ in range(200)])
    with full_disk(100_000):
        done = run_demo(path)
    assert done.code == cli.MISTAKE
    assert is_one_line(done.err)
    assert "cannot write the video" in done.err
    assert "clip.mp4: File too large" in done.err
    assert len(listed(out)) < 150
    assert sorted(file.name for file in out.iterdir()) == ["images.json", "results.json"]


def test_people_of_a_video_have_ids_and_colors_that_stay(run_demo, out, clip):
    ways = [((20 + 4 * i, 60), (140 - 4 * i, 60)) for i in range(31)]
    run_demo(clip([scene(*both) for both in ways]), track=True)
    by_id = {own: [row for row in rows_of(out) if row["track_id"] == own] for own in (1, 2)}
    assert sorted(map(len, by_id.values()))[1] == 31  # one is found where two meet
    middle = [np.mean(by_id[own][-1]["keypoints"][::3]) for own in (1, 2)]
    assert middle[0] > 100 > 60 > middle[1]


def test_each_video_counts_its_people_from_one(run_demo, out, clip):
    one = clip([scene((60, 60))] * 3, "one")
    other = clip([scene((60, 60)), scene((60, 60), (110, 60))], "other")
    run_demo(one, other, one, track=True)
    assert [row["track_id"] for row in rows_of(out)] == [1, 1, 1, 1, 1, 2, 1, 1, 1]
    assert [len(frames_of(out / f"{n}.mp4")) for n in ("one", "other", "one_2")] == [3, 2, 3]


def test_images_and_videos_may_come_together(run_demo, out, clip, tmp_path):
    picture = picture_file(tmp_path / "in/a.png", scene((60, 60)))
    run_demo(picture, clip([scene((60, 60))] * 2), picture, track=True)
    assert [row.get("track_id") for row in rows_of(out)] == [None, 1, 1, None]
    assert [image["drawn"] for image in listed(out)] == ["a.png"] + ["clip.mp4"] * 2 + ["a_2.png"]


def test_it_tells_how_fast_each_part_is(run_demo, clip):
    text = run_demo(clip([scene()] * 3)).out
    assert "| part | read | network | group | draw | write | all, overlapping |" in text
    numbers = [float(word) for word in text.splitlines()[-1].split("|")[2:-1]]
    assert len(numbers) == 6
    assert min(numbers) > 0


@pytest.mark.parametrize("step", ["prepare", "compute", "group"])
def test_an_error_in_any_thread_ends_a_video_with_its_line_and_leaves_it_whole(
    run_demo, out, clip, step
):
    calls = []

    def fail(given, *rest):
        calls.append(given)
        if len(calls) == 6:
            raise RuntimeError("out of memory\nsomewhere deep")
        return getattr(POINTS, step)(given, *rest)

    done = run_demo(clip([scene()] * 12), predictor=POINTS._replace(**{step: fail}))
    assert done.code == cli.MISTAKE
    assert is_one_line(done.err)
    assert "clip.mp4, frame 6: out of memory" in done.err
    assert len(frames_of(out / "clip.mp4")) == len(listed(out)) == 5
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_an_error_with_one_image_leaves_out_that_one(run_demo, out, tmp_path):
    def fail_once(given):
        if len(points_of(given)) == 2:
            raise RuntimeError("out of memory")
        return given

    for i in range(4):
        picture_file(tmp_path / f"in/{i}.png", scene(*[(30 + 40 * p, 60) for p in range(i)]))
    done = run_demo(tmp_path / "in", predictor=POINTS._replace(compute=fail_once))
    assert done.code == 1
    assert "2.png: out of memory" in done.err
    assert [image["drawn"] for image in listed(out)] == ["0.png", "1.png", "3.png"]


def test_ctrl_c_leaves_a_video_and_lists_that_are_whole(run_demo, out, clip):
    calls = []

    def interrupt(given):
        calls.append(given)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return given

    done = run_demo(clip([scene((60, 60))] * 50), predictor=POINTS._replace(compute=interrupt))
    assert done.code == 130
    assert "interrupted" in done.err
    count = len(frames_of(out / "clip.mp4"))
    assert 1 <= count < 50
    assert count - len(listed(out)) in (0, 1)  # a frame is written, then listed, then its people
    assert len(listed(out)) - len(rows_of(out)) in (0, 1)
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_a_video_that_cannot_be_read_is_named_among_others(run_demo, out, clip, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    done = run_demo(tmp_path / "bad.mp4", clip([scene()] * 2))
    assert done.code == 1
    assert "bad.mp4 has no readable frames" in done.err
    assert len(frames_of(out / "clip.mp4")) == 2


# --- networks ---------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path):
    """A checkpoint as a training leaves it, of a network that finds something everywhere."""
    cfg = tiny_config(tmp_path, tmp_path, "TEST.DETECTION_THRESHOLD", "0.0")
    path = tmp_path / "checkpoint.pth.tar"
    model = network(cfg, seed=0)
    save_checkpoint(path, state_dict=model.state_dict(), arch=TINY.to_dict(), config=cfg.dump())
    return path


@pytest.fixture
def call(tmp_path, call_tool, monkeypatch):
    """The tool as it is called, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(call_tool, demo.main)


@pytest.fixture
def street(tmp_path) -> Path:
    [(picture, _)] = walk(0, 3, (160, 120), 1)
    return picture_file(tmp_path / "in/street.png", picture)


def test_a_checkpoint_alone_is_enough(call, trained, street, tmp_path):
    assert call("--model", trained, "--input", street, "--min-score", "0").code == 0
    cfg = tiny_config(tmp_path, tmp_path, "TEST.DETECTION_THRESHOLD", "0.0")
    people, scores = predict(cfg, network(cfg, seed=0).eval(), read_image(street))
    rows = rows_of(tmp_path / "output/demo")
    assert len(rows) == len(people) > 0
    best = int(np.argmax(scores))
    np.testing.assert_allclose(
        np.array(rows[0]["keypoints"]).reshape(17, 3), people[best, :, :3], atol=1e-3
    )


def test_keys_win_over_what_a_checkpoint_says(call, trained, street, tmp_path):
    flags = ["--model", trained, "--input", street, "--min-score", "0"]
    call(*flags, "TEST.DETECTION_THRESHOLD", "1e9")
    assert rows_of(tmp_path / "output/demo") == []


def test_people_of_maps_that_are_not_finite_are_reported(run_demo, trained, street, monkeypatch):
    people = np.full((1, 17, 5), np.inf)
    monkeypatch.setattr(lib.predictor, "find_people", lambda *_, **__: (people, [1.0], False))
    done = run_demo(street, predictor=Predictor.load(trained))
    assert done.code == cli.MISTAKE
    assert "street.png: the network's maps are not finite" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "none.pth.tar"], "there is no checkpoint none.pth.tar"),
        (["--input", "nothing"], "there is no file or folder nothing"),
        (["--track"], "--track is for videos"),
        (["--cfg", "none.yaml"], "cannot read the config none.yaml"),
        (["--superconfig", "none.json"], "cannot read the architecture none.json"),
        (["TEST.FLIP_TESTS", "False"], "did you mean TEST.FLIP_TEST?"),
        (["TEST.FLIP_TEST"], "has no value"),
        (["--min-score", "nan"], "--min-score is nan; wanted a number from 0 to 1"),
    ],
)
def test_a_mistake_is_one_line(call, trained, street, flags, message):
    done = call("--input", street, "--model", trained, *flags)
    assert done.code == cli.MISTAKE
    assert message in done.err
    assert is_one_line(done.err)


def test_keys_may_follow_the_inputs():
    args = demo.parse_args(["--model", "m", "--input", "a.png", "b.MP4", "TEST.FLIP_TEST", "False"])
    assert args.input == ["a.png", "b.MP4"]
    assert args.opts == ["TEST.FLIP_TEST", "False"]
    args = demo.parse_args(["--model", "m", "SEED", "1", "--input", "TEST.PNG"])
    assert (args.input, args.opts) == (["TEST.PNG"], ["SEED", "1"])


def test_without_a_display_a_window_is_refused(call, trained, street, monkeypatch):
    monkeypatch.setattr(demo.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    done = call("--model", trained, "--input", street, "--show")
    assert done.code == cli.MISTAKE
    assert "no display" in done.err


# --- exported networks ------------------------------------------------------------------


def test_an_exported_network_is_run_as_on_a_device(call, trained, street, tmp_path):
    folder = tmp_path / "exported"
    assert export.main(["--model", str(trained), "--out", str(folder), "--size", "192x128"]) == 0
    model = folder / "model.onnx"
    assert call("--model", model, "--input", street, "--min-score", "0").code == 0
    opened = device_runner.open_model(model, threads=1)
    people, scores = device_runner.find_people(*opened, read_image(street))
    rows = rows_of(tmp_path / "output/demo")
    assert len(rows) == len(people) > 0
    for row, person, score in zip(rows, people, scores, strict=True):
        assert row["score"] == pytest.approx(score, abs=1e-5)
        np.testing.assert_allclose(row["keypoints"], person.flatten(), atol=1e-3)
