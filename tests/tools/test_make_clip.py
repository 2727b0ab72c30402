"""A drawn video shows as many people as asked for, who move smoothly."""

from __future__ import annotations

import numpy as np
import pytest

from lib.utils import cli
from tools.demo.media import find_sources
from tools.demo.video import read_video
from tools.make_clip import main, walk


def test_a_clip_is_as_long_and_as_large_as_asked_for(tmp_path, capsys):
    main(["--out", str(tmp_path / "new/clip.mp4"), "--size", "96x64", "--seconds", "0.4"])
    frames = list(read_video(find_sources([str(tmp_path / "new/clip.mp4")])[0]))
    assert len(frames) == 10
    assert frames[0].image.shape == (64, 96, 3)
    assert "10 frames" in capsys.readouterr().out


def test_a_clip_is_a_function_of_its_seed():
    one, again, other = (
        np.array([picture for picture, _ in walk(seed, 2, (96, 64), 3)]) for seed in (1, 1, 2)
    )
    assert (one == again).all()
    assert (one != other).any()


@pytest.mark.parametrize("people", [0, 1, 5])
def test_everybody_moves_a_little_from_frame_to_frame(people):
    joints = np.array([points for _, points in walk(0, people, (320, 240), 100)])
    assert joints.shape[:2] == (100, people)
    steps = np.abs(np.diff(joints[..., :2], axis=0))
    assert steps.max(initial=0) < 240 / 10
    assert (np.abs(joints[-1, ..., 0] - joints[0, ..., 0]) > 320 / 8).all()


def test_nothing_else_moves():
    pictures = np.array([picture for picture, _ in walk(0, 0, (96, 64), 3)])
    assert (pictures == pictures[0]).all()


@pytest.mark.parametrize(
    "flags", [["--size", "64"], ["--size", "8x8"], ["--people", "-1"], ["--seconds", "0"]]
)
def test_a_mistake_is_reported_and_nothing_is_written(tmp_path, flags):
    with pytest.raises((SystemExit, ValueError)):
        main(["--out", str(tmp_path / "clip.mp4"), *flags])
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    code = cli.code_of(lambda: main(["--out", str(tmp_path / "file/clip.mp4")]))
    assert code == cli.MISTAKE
    assert capsys.readouterr().err.count("\n") == 1
