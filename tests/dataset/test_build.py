"""From the config to loaders: every image its turn, the same turn for the same seed."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from lib.dataset import build, reader
from lib.dataset.build import (
    EpochSampler,
    build_dataset,
    build_evaluation_set,
    build_search_sets,
    make_dataloader,
)
from tests.helpers import tiny_config


def orders(length: int, world_size: int, **kwargs) -> list[list[tuple[int, int]]]:
    """What each process reads."""
    return [
        list(EpochSampler(length, rank=rank, world_size=world_size, **kwargs))
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 17])
def test_every_index_comes_once_over_all_processes(length, world_size):
    per_process = orders(length, world_size)
    assert {len(keys) for keys in per_process} == {len(EpochSampler(length, world_size=world_size))}
    indices = sorted(index for keys in per_process for _, index in keys)
    assert set(indices) == set(range(length))
    assert len(indices) - length < world_size  # no more repeats than even shares need
    if length % world_size == 0:
        assert indices == list(range(length))


def test_an_order_is_a_function_of_seed_and_epoch():
    sampler = EpochSampler(40, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    assert list(EpochSampler(40, seed=3)) == first
    assert [i for _, i in EpochSampler(40, seed=4)] != [i for _, i in first]
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for epoch, _ in second} == {1}
    assert [i for _, i in second] != [i for _, i in first]
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_a_skipped_beginning_leaves_the_rest_of_the_same_epoch():
    sampler = EpochSampler(11, rank=1, world_size=2)
    sampler.set_epoch(4)
    whole = list(sampler)
    sampler.set_epoch(4, skip=2)
    assert list(sampler) == whole[2:]
    assert len(sampler) == len(whole) == 6  # the length of an epoch, wherever it is entered
    sampler.set_epoch(4)
    assert list(sampler) == whole


def test_without_shuffling_the_order_is_the_annotations():
    assert list(EpochSampler(4, shuffle=False)) == [(0, 0), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_does_not_depend_on_the_number_of_workers(coco_root, tmp_path, workers):
    def batches(count: int) -> list:
        cfg = tiny_config(coco_root, tmp_path, "WORKERS", str(count))
        loader = make_dataloader(cfg, build_dataset(cfg))
        epochs = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            epochs.append(list(loader))
        return epochs

    alone, helped = batches(0), batches(workers)
    for one, other in zip(alone, helped, strict=True):
        for batch, again in zip(one, other, strict=True):
            for field in ("images", "joints", "sigmas", "flipped", "image_ids"):
                assert torch.equal(getattr(batch, field), getattr(again, field)), field
            for mask, same in zip(batch.masks, again.masks, strict=True):
                assert torch.equal(mask, same)
    assert not torch.equal(alone[0][0].images, alone[1][0].images)


def test_two_processes_share_an_epoch(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path)
    dataset = build_dataset(cfg)
    seen = [
        image_id
        for rank in range(2)
        for batch in make_dataloader(cfg, dataset, rank, 2)
        for image_id in batch.image_ids.tolist()
    ]
    assert sorted(seen) == sorted(record.id for record in dataset.records)


@pytest.mark.parametrize("data_set", ["coco", "crowd_pose"])
def test_both_layouts_are_found(data_set, coco_root, crowd_pose_root, tmp_path):
    root = coco_root if data_set == "coco" else crowd_pose_root
    cfg = tiny_config(root, tmp_path, data_set=data_set)
    train, test = build_dataset(cfg), build_evaluation_set(cfg)
    # CrowdPose trains on "trainval", COCO on "train2017".
    assert len(train) == (6 if data_set == "coco" else 10)
    assert len(test.records) == 4
    assert not {p.id for p in train.records} & {p.id for p in test.records}
    assert test.has_people


def test_images_are_few_when_few_are_asked_for(coco_root, tmp_path):
    cfg = tiny_config(coco_root, tmp_path, "DATASET.MAX_IMAGES", "2")
    assert len(build_dataset(cfg)) == len(build_evaluation_set(cfg).records) == 2


def test_images_without_annotations_are_evaluated_and_trained_on_if_wished(
    tmp_path, coco_root, caplog
):
    tree = json.loads((coco_root / "annotations/person_keypoints_train2017.json").read_text())
    alone = tree["images"][0]["id"]
    tree["annotations"] = [a for a in tree["annotations"] if a["image_id"] != alone]
    for split in ("train2017", "val2017"):
        path = tmp_path / f"annotations/person_keypoints_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(tree))
    (tmp_path / "images").symlink_to(coco_root / "images")
    cfg = tiny_config(tmp_path, tmp_path)
    assert alone not in {record.id for record in build_dataset(cfg).records}
    assert alone in {record.id for record in build_evaluation_set(cfg).records}
    with caplog.at_level(logging.INFO):
        dataset = build_dataset(tiny_config(tmp_path, tmp_path, "DATASET.WITH_BACKGROUND", "True"))
    assert "1 images without annotations are trained on" in caplog.text
    assert [record.id for record in dataset.records] == [image["id"] for image in tree["images"]]
    background = dataset[0, 0]  # an epoch, an index
    assert background.image_id == alone
    assert len(background.joints) == 0
    assert all(mask.any() for mask in background.masks)  # the image counts in the loss


def test_people_beyond_the_slots_are_left_out_with_one_warning(coco_root, tmp_path, caplog):
    everybody = build_dataset(tiny_config(coco_root, tmp_path))
    total = sum(len(record.joints) for record in everybody.records)
    with_people = sum(len(record.joints) > 0 for record in everybody.records)
    assert total > with_people
    with caplog.at_level(logging.WARNING):
        dataset = build_dataset(tiny_config(coco_root, tmp_path, "DATASET.MAX_NUM_PEOPLE", "1"))
    [record] = caplog.records
    assert record.getMessage().startswith(f"{total - with_people} people are left out")
    assert "MAX_NUM_PEOPLE 1" in record.getMessage()
    for record, whole in zip(dataset.records, everybody.records, strict=True):
        if len(whole.joints):
            areas = whole.boxes[:, 2] * whole.boxes[:, 3]
            assert (record.boxes[0] == whole.boxes[areas.argmax()]).all()
            assert (record.joints[0] == whole.joints[areas.argmax()]).all()


def test_a_missing_data_folder_is_named(tmp_path):
    for make in (build_dataset, build_evaluation_set):
        with pytest.raises(ValueError, match=r"DATASET\.ROOT .*nowhere does not exist"):
            make(tiny_config(tmp_path / "nowhere", tmp_path))


def test_a_missing_image_folder_is_named(coco_root, tmp_path):
    (tmp_path / "annotations").symlink_to(coco_root / "annotations")
    with pytest.raises(ValueError, match=r"image folder .*images/train2017 does not exist"):
        build_dataset(tiny_config(tmp_path, tmp_path))
    with pytest.raises(ValueError, match=r"image archive .*train2017\.zip does not exist"):
        build_dataset(tiny_config(tmp_path, tmp_path, "DATASET.DATA_FORMAT", "zip"))


def test_a_split_without_anything_to_train_on_is_named(coco_root, tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for split in ("train2017", "val2017"):
        (folder / f"person_keypoints_{split}.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "images").symlink_to(coco_root / "images")
    cfg = tiny_config(tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"train2017\.json has no annotated image"):
        build_dataset(cfg)
    with pytest.raises(ValueError, match=r"val2017\.json has no image to evaluate"):
        build_evaluation_set(cfg)


def test_a_split_in_which_nobody_is_labelled_is_not_trained_on(coco_root, tmp_path):
    tree = json.loads((coco_root / "annotations/person_keypoints_train2017.json").read_text())
    for one in tree["annotations"]:
        one["keypoints"] = []
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations/person_keypoints_train2017.json"
    path.write_text(json.dumps(tree))
    (tmp_path / "images").symlink_to(coco_root / "images")
    with pytest.raises(ValueError, match=rf"^{path}: nobody is labelled in the \d images"):
        build_dataset(tiny_config(tmp_path, tmp_path))


def test_an_annotation_file_is_read_once(coco_root, tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(build, "read_annotations", lambda *args: reads.append(args) or read(*args))
    read = reader.read_annotations
    cfg = tiny_config(coco_root, tmp_path)
    data = build_evaluation_set(cfg)
    assert len(reads) == 1
    _, held_out = build_search_sets(cfg, 2)
    assert len(reads) == 2
    assert len(data.ground_truth["images"]) == len(data.records) == 4
    assert [image["id"] for image in held_out.ground_truth["images"]] == [
        record.id for record in held_out.records
    ]
    people = held_out.ground_truth["annotations"]
    assert people
    assert not any("segmentation" in person for person in people)
    assert {person["image_id"] for person in people} <= {record.id for record in held_out.records}
