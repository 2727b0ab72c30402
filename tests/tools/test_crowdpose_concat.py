"""CrowdPose's training and validation annotations in one file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lib.keypoints import CROWD_POSE
from lib.utils import cli
from tests.helpers import read_records
from tools.crowdpose_concat_train_val import main


@pytest.fixture
def root(crowd_pose_root: Path, tmp_path: Path) -> Path:
    """A copy of the annotations, without the joined file."""
    shutil.copytree(crowd_pose_root / "json", tmp_path / "json")
    (tmp_path / "json" / "crowdpose_trainval.json").unlink()
    return tmp_path


def change(root: Path, split: str, key: str, index: int, **values: object) -> None:
    path = root / "json" / f"crowdpose_{split}.json"
    tree = json.loads(path.read_text())
    tree[key][index] |= values
    path.write_text(json.dumps(tree))


def first_id(root: Path, split: str, key: str) -> int:
    return json.loads((root / "json" / f"crowdpose_{split}.json").read_text())[key][0]["id"]


def test_the_joined_file_has_the_images_of_both(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data_dir", str(root)]) == 0
    files = [root / "json" / f"crowdpose_{split}.json" for split in ("train", "val", "trainval")]
    train, val, both = ([p.id for p in read_records(file, CROWD_POSE)] for file in files)
    assert both == train + val
    assert f"{files[2]}: {len(both)} images" in capsys.readouterr().out


def test_joining_twice_changes_nothing_and_leaves_no_other_file(root: Path) -> None:
    target = root / "json" / "crowdpose_trainval.json"
    main(["--data_dir", str(root)])
    once = target.read_bytes()
    main(["--data_dir", str(root)])
    assert target.read_bytes() == once
    assert len(list((root / "json").iterdir())) == 4  # train, val, test, trainval


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_an_id_that_comes_twice_is_refused_and_named(root: Path, key: str) -> None:
    number = first_id(root, "train", key)
    change(root, "val", key, 0, id=number)
    with pytest.raises(ValueError, match=f"{key[:-1]} id {number} comes twice"):
        main(["--data_dir", str(root)])
    assert not (root / "json" / "crowdpose_trainval.json").exists()


def test_different_categories_are_refused(root: Path) -> None:
    change(root, "val", "categories", 0, keypoints=["nose"])
    with pytest.raises(ValueError, match="different categories"):
        main(["--data_dir", str(root)])


def test_a_missing_file_is_one_line_and_exit_code_2(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "json" / "crowdpose_val.json").unlink()
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: main(["--data_dir", str(root)]))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "crowdpose_val.json" in error


def test_the_files_that_are_joined_are_never_written_over(root: Path) -> None:
    train = root / "json" / "crowdpose_train.json"
    (root / "json" / "crowdpose_trainval.json").symlink_to(train)
    before = train.read_bytes()
    with pytest.raises(ValueError, match="is the file of the input"):
        main(["--data_dir", str(root)])
    assert train.read_bytes() == before
