"""Every switch of the config that changes shapes trains an epoch and is evaluated."""

from __future__ import annotations

import pytest

from tests.helpers import TINY, YAMLS, tiny_opts

CENTER = "DATASET.WITH_CENTER True DATASET.NUM_JOINTS 18 MODEL.NUM_JOINTS 18"
VARIANTS = {
    "one tag map for all joints": "MODEL.TAG_PER_JOINT False",
    "tags of two dimensions, all losses of tags": "MODEL.AE_TAG_DIMS 2 LOSS.PUSH_START 0.1 "
    "LOSS.TAG_SIZE_FACTOR 0.1 LOSS.PUSH_EACH_DIM True LOSS.FLIP_CONSISTENCY 1 DEBUG.DEBUG True "
    "DEBUG.SAVE_BATCH_IMAGES_PRED True",
    "a center joint, ignored in the test": CENTER,
    "a center joint, grouped in the test": f"{CENTER} TEST.IGNORE_CENTER False",
    "tags on both outputs": "LOSS.WITH_AE_LOSS [True,True] TEST.WITH_AE [True,True]",
    "no raw half of the head": "MODEL.FUSION_HEAD False",
    "multi-scale test": "TEST.SCALE_FACTOR [0.5,1,2]",
    "multi-scale test at the size of the maps": "TEST.SCALE_FACTOR [1,2] TEST.PROJECT2IMAGE False",
    "no flip test": "TEST.FLIP_TEST False TEST.ADJUST False TEST.REFINE False",
    "hinge push loss, plain distances": "LOSS.AE_LOSS_TYPE max TEST.USE_DETECTION_VAL False",
    "scale-aware sigma": "DATASET.SCALE_AWARE_SIGMA True DATASET.INT_SIGMA True",
    "sigma from the map size": "DATASET.SIGMA -1",
    "deconv kernels of 3 and 2": "MODEL.EXTRA.NUM_DECONV_KERNELS [3,2,4]",
    "contiguous memory, SGD": "MODEL.CHANNELS_LAST False TRAIN.OPTIMIZER sgd",
    "every image in TensorBoard": "DEBUG.DEBUG True DEBUG.SAVE_BATCH_IMAGES_GT True "
    "DEBUG.SAVE_BATCH_IMAGES_PRED True DEBUG.SAVE_TAGMAPS_PRED True",
    "validation every epoch": "TRAIN.VALIDATE_EVERY 1",
}


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_trains_and_is_evaluated(keys, coco_root, tmp_path, call):
    TINY.to_json(tmp_path / "tiny.json")
    args = ["--cfg", str(YAMLS["coco"]), "--superconfig", str(tmp_path / "tiny.json")]
    args += [*tiny_opts(coco_root, tmp_path), *keys.split()]
    trained = call("dist_train", *args)
    assert trained.code == 0, trained.err
    scored = call("valid", *args)
    assert scored.code == 0, scored.err
    assert "| tiny |" in scored.out
    folder = tmp_path / "output/coco_kpt/pose_mobilenet/mobile"
    assert (folder / "results/keypoints_val2017_results.json").exists()
    assert (folder / "model_best.pth.tar").exists() == ("VALIDATE" in keys)
