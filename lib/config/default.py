"""The default of every config key, with its meaning.

Names follow HigherHRNet and LitePose, so their yaml files load unchanged. `load_config` clones this
tree and never modifies it. ranges.py lists the values that each key accepts.
"""

from yacs.config import CfgNode as CN

_C = CN()

# ---------------------------------------------------------------------------------- the run
_C.OUTPUT_DIR = "output"  # checkpoints, results: OUTPUT_DIR/<dataset>/<model>/<yaml name>/
_C.LOG_DIR = "log"  # TensorBoard: LOG_DIR/<dataset>/<model>/<yaml name>/
_C.DATA_DIR = ""  # prefix of a relative DATASET.ROOT
_C.SEED = 0  # of initial weights, shuffling, augmentation and sampled architectures
_C.GPUS = (0,)  # CUDA device of a single process; torchrun and --gpu override it
_C.WORKERS = 4  # loader processes per process, at most one per core; 0: load in the process itself
_C.PRINT_FREQ = 30  # steps between two log lines and points of the curves; 0: none
_C.AUTO_RESUME = True  # resume from the checkpoint in OUTPUT_DIR if there is one
_C.PIN_MEMORY = True
_C.VERBOSE = True  # False: no progress bars
_C.DIST_BACKEND = "nccl"  # gloo is used where there is no GPU
_C.DIST_TIMEOUT = 1800.0  # seconds a process waits for another before it gives up
_C.MULTIPROCESSING_DISTRIBUTED = True  # accepted for old files; torchrun starts the processes
_C.RANK = 0  # accepted for old files; see --rank

_C.CUDNN = CN()
_C.CUDNN.BENCHMARK = True
_C.CUDNN.DETERMINISTIC = False
_C.CUDNN.ENABLED = True

# Mixed precision: float16 with loss scaling on a GPU, bfloat16 on a CPU; in evaluation, float16 on
# a GPU only
_C.FP16 = CN()
_C.FP16.ENABLED = False
_C.FP16.STATIC_LOSS_SCALE = 1.0  # used when DYNAMIC_LOSS_SCALE is off
# Without a large scale, nearly all gradients of the maps are 0 in float16: they are below 3e-8
_C.FP16.DYNAMIC_LOSS_SCALE = True

# Where scalars go: tensorboard, jsonl (scalars.jsonl in the output folder), wandb, mlflow
_C.LOG = CN()
_C.LOG.SINKS = ["tensorboard", "jsonl"]

# -------------------------------------------------------------------------------- the model
_C.MODEL = CN()
_C.MODEL.NAME = "pose_mobilenet"
_C.MODEL.PRETRAINED = ""  # weights to start from; "" starts from scratch
# "all"; "not_final": without the last layers, for other joints; "backbone": without the deconv head
_C.MODEL.PRETRAINED_PARTS = "all"
_C.MODEL.INIT_WEIGHTS = True  # False ignores PRETRAINED
_C.MODEL.NUM_JOINTS = 17  # equal to DATASET.NUM_JOINTS
_C.MODEL.TAG_PER_JOINT = True  # one tag map per joint, or one for all joints
_C.MODEL.AE_TAG_DIMS = 1  # numbers of a joint's tag, each with its map (docs/options.md)
# Encoding of joints as heatmaps: "reference" (published weights) or "unbiased". Train and decode
# with the same codec (docs/codec.md).
_C.MODEL.CODEC = "reference"
_C.MODEL.SYNC_BN = False  # BatchNorm statistics over all processes, for supernets and on CPUs too
_C.MODEL.FUSION_HEAD = True  # False: the deconv head without the raw branch (paper, ablation)
# Train 5x5 and 3x3 kernels parallel to the 7x7 ones; everything that reads the weights folds them
_C.MODEL.KERNEL_BRANCHES = False
_C.MODEL.ELASTIC_KERNEL = False  # supernet: kernels 5 and 3 too, derived from the 7x7 filters
# `torch.compile` in training: fuses layers, but takes minutes to start; not for supernets, whose
# shapes change at every step
_C.MODEL.COMPILE = False
_C.MODEL.CHANNELS_LAST = True  # memory format of the network; twice as fast on a CPU
# Keys of one kind of network. The three below are LitePose's; those of HigherHRNet and
# EfficientHRNet have no defaults (lib/models/baselines/hrnet_extra.py).
_C.MODEL.EXTRA = CN(new_allowed=True)
_C.MODEL.EXTRA.NUM_DECONV_LAYERS = 3
_C.MODEL.EXTRA.NUM_DECONV_FILTERS = [
    64,
    48,
    32,
]  # of the largest network; --superconfig overrides them
_C.MODEL.EXTRA.NUM_DECONV_KERNELS = [4, 4, 4]

# ------------------------------------------------------------------------------ the supernet
_C.SUPERNET = CN()  # used where MODEL.NAME is pose_supermobilenet
_C.SUPERNET.RATIOS = [1.0, 0.75, 0.5, 0.25]  # of each width: stem, stages, deconv levels
_C.SUPERNET.SMALLEST = ""  # a mobile_configs/*.json: no width is below its; "": RATIOS alone decide
_C.SUPERNET.RESOLUTIONS = [512, 448, 384, 320, 256]
_C.SUPERNET.EXPANSIONS = [6]
_C.SUPERNET.KERNELS = [7]  # 5 and 3: the center of the 7x7 kernel, with MODEL.ELASTIC_KERNEL mapped
_C.SUPERNET.DEPTHS = [1.0]  # of each stage: the share of its blocks that is kept, from its first
_C.SUPERNET.SAMPLING = "uniform"  # one architecture per step; "sandwich": largest, smallest, random
_C.SUPERNET.SANDWICH_RANDOM = 1  # random architectures of a sandwich
_C.SUPERNET.IMITATION_FACTOR = 1.0  # sandwich: weight of imitating the largest's heatmaps; 0: off
_C.SUPERNET.SORT_CHANNELS = True  # after PRETRAINED: most important channels first
# Importance of a channel: "weights", of stem and stages; or "activation" on SORTING_IMAGES training
# images, of all that a sub-network slices: loses less, but reads images (docs/supernet.md)
_C.SUPERNET.IMPORTANCE = "weights"
_C.SUPERNET.SORTING_IMAGES = 64
# A sub-network of a network that was trained alone: refit its layers on SORTING_IMAGES training
# images and keep the statistics of BatchNorm, in place of recalibration (docs/shrink.md)
_C.SUPERNET.REFIT = False
_C.SUPERNET.CALIBRATION_IMAGES = 1024  # training images to recalibrate a sub-network's BatchNorm

# ------------------------------------------------------------------------------ the teacher
_C.TEACHER = CN()  # the network of `dist_train.py --teacher`
_C.TEACHER.INPUT_SIZE = 0  # pixels; the crops are resized to it; 0: the size it was trained at
# float16 on a GPU, bfloat16 on a CPU: a third of the time with AVX-512 BF16, slower without
_C.TEACHER.HALF_PRECISION = False
_C.TEACHER.SHARE = 1.0  # of the images of a batch, rounded up: those that are taught
# Average the teacher's heatmaps with those of the flipped crops, as in a flip test: twice its time
_C.TEACHER.FLIP_TEST = False
# Weight of the squared distance between the tags of teacher and student at labelled joints; 0: none
_C.TEACHER.TAGS_FACTOR = 0.0

# --------------------------------------------------------------------------------- the loss
_C.LOSS = CN()
_C.LOSS.NUM_STAGES = 2  # outputs of the network, coarse to fine
_C.LOSS.WITH_HEATMAPS_LOSS = (True, True)  # lists below: one entry per stage
_C.LOSS.HEATMAPS_LOSS_FACTOR = (1.0, 1.0)
_C.LOSS.WAHR = False  # weights of pixels that adapt to the prediction (docs/options.md)
_C.LOSS.WITH_AE_LOSS = (True, False)  # outputs that have tag maps, and train them
_C.LOSS.AE_LOSS_TYPE = "exp"  # push loss: "exp" or "max" (hinge)
# s of the push loss exp(-(|d| + s)^2) for tags at a distance d; above 0, equal tags part
_C.LOSS.PUSH_START = 0.0
_C.LOSS.PUSH_LOSS_FACTOR = (0.001, 0.001)
_C.LOSS.PULL_LOSS_FACTOR = (0.001, 0.001)
# Push people apart in each dimension of their tags, in place of the vectors (docs/options.md)
_C.LOSS.PUSH_EACH_DIM = False
# Weight of the loss that ties tags of several dimensions to the size of a person (docs/options.md)
_C.LOSS.TAG_SIZE_FACTOR = 0.0
# Weight of the difference between the outputs for an image and its flipped copy; 0: none.
# FLIP_SHARE of the images of a batch have a copy, and a step costs as much more (docs/options.md)
_C.LOSS.FLIP_CONSISTENCY = 0.0
_C.LOSS.FLIP_SHARE = 0.125

# ------------------------------------------------------------------------------ the data set
_C.DATASET = CN()
_C.DATASET.ROOT = "data/coco"
# Joints and layout in training: coco_kpt, crowd_pose_kpt, or a joints file, *.yaml
# (docs/custom_data.md)
_C.DATASET.DATASET = "coco_kpt"
# Joints, layout and metric in evaluation: coco, crowd_pose; if DATASET is a joints file, that file
_C.DATASET.DATASET_TEST = "coco"
_C.DATASET.KEYPOINTS = CN(new_allowed=True)  # content of the joints file, filled by load_config
_C.DATASET.TRAIN = "train2017"
_C.DATASET.TEST = "val2017"
# Data sets to train on, [{ROOT: data/coco, DATASET: coco, TRAIN: train2017, WEIGHT: 1}, ...] of any
# layouts and joints (docs/training.md); []: ROOT and TRAIN alone
_C.DATASET.MIX = []
_C.DATASET.DATA_FORMAT = "jpg"  # "jpg": a folder of images; "zip": one archive per folder
_C.DATASET.CACHE = ""  # folder of decoded, shrunk images, by tools/cache_images.py; "": none
# An unreadable training image: "raise" stops, "skip" logs it and continues; evaluation always logs
# it and continues
_C.DATASET.UNREADABLE = "raise"
_C.DATASET.MAX_IMAGES = 0  # use only the first N images; 0: all
_C.DATASET.WITH_BACKGROUND = False  # train on images without annotations, too
_C.DATASET.MIN_LABELLED_JOINTS = 0  # use only images with a person of at least so many
_C.DATASET.NUM_JOINTS = 17  # of the data set, plus one if WITH_CENTER
_C.DATASET.MAX_NUM_PEOPLE = 30  # people per image; of more, the largest are used
_C.DATASET.WITH_CENTER = False  # one more joint: the mean of the labelled ones
# Augmentation. The crop's side is the image's short (long) side times U(MIN_SCALE, MAX_SCALE).
_C.DATASET.INPUT_SIZE = 512
_C.DATASET.OUTPUT_SIZE = [128, 256]  # one map size per stage
_C.DATASET.SCALE_TYPE = "short"  # "short" or "long"
_C.DATASET.MIN_SCALE = 0.75
_C.DATASET.MAX_SCALE = 1.5
_C.DATASET.MAX_ROTATION = 30  # degrees
_C.DATASET.MAX_TRANSLATE = 40  # pixels of the image, times the crop's side / 200
_C.DATASET.FLIP = 0.5  # probability
# Probability that the crop is around a person instead of the image's middle: half the size, twice
# as often (docs/options.md)
_C.DATASET.SMALL_PEOPLE = 0.0
# Photometric augmentation of the crop (docs/options.md); 0: none.
_C.DATASET.BRIGHTNESS = 0.0  # b of a factor U(1 - b, 1 + b); likewise the next two
_C.DATASET.CONTRAST = 0.0
_C.DATASET.SATURATION = 0.0
_C.DATASET.HUE = 0.0  # degrees of the color circle, either way
_C.DATASET.GRAY = 0.0  # probability; likewise the next two
_C.DATASET.BLUR = 0.0
_C.DATASET.JPEG = 0.0
_C.DATASET.DROP_JOINTS = 0.0  # probability for each person that a disk hides one of its joints
# Targets.
_C.DATASET.SIGMA = 2  # of the Gaussian, in map pixels; -1: map size / 64
_C.DATASET.SCALE_AWARE_SIGMA = False  # sigma = BASE_SIGMA * longer box side / BASE_SIZE
_C.DATASET.BASE_SIGMA = 2.0
_C.DATASET.BASE_SIZE = 256.0
_C.DATASET.INT_SIGMA = False  # round a scale-aware sigma up to a whole number

# ------------------------------------------------------------------------------- training
_C.TRAIN = CN()
_C.TRAIN.IMAGES_PER_GPU = 32  # per process; auto: as many as the memory of a GPU holds
_C.TRAIN.BEGIN_EPOCH = 0
_C.TRAIN.END_EPOCH = 500
_C.TRAIN.SHUFFLE = True
# Smaller inputs first, [[share of the epochs, INPUT_SIZE], ...], e.g. [[0.4, 256], [0.3, 384]]; the
# remaining epochs are at DATASET.INPUT_SIZE (docs/options.md); []: all
_C.TRAIN.PROGRESSIVE = []
_C.TRAIN.OPTIMIZER = "adam"  # "adam" (no weight decay, as in the paper) or "sgd"
_C.TRAIN.LR = 1e-3
_C.TRAIN.LR_BATCH = 0  # total batch size that LR is meant for; LR scales with it; 0: no scaling
_C.TRAIN.LR_SCHEDULE = "multistep"  # "multistep": x LR_FACTOR at each of LR_STEP; or "cosine"
_C.TRAIN.LR_FACTOR = 0.1
_C.TRAIN.LR_STEP = [350, 480]  # epochs
_C.TRAIN.WARMUP_EPOCHS = 0.0  # linear rise from 0 to LR, before either schedule
_C.TRAIN.MOMENTUM = 0.9  # sgd
_C.TRAIN.NESTEROV = False  # sgd
_C.TRAIN.WD = 1e-4  # sgd
_C.TRAIN.GAMMA1 = 0.99  # accepted for old files
_C.TRAIN.GAMMA2 = 0.0  # accepted for old files
_C.TRAIN.RESUME = False  # like AUTO_RESUME, but a missing checkpoint is an error
_C.TRAIN.CHECKPOINT = ""  # the checkpoint to resume from; "" is the one in OUTPUT_DIR
_C.TRAIN.ACCUMULATE = 1  # batches per step; gradients are averaged over their images
_C.TRAIN.CLIP_NORM = 0.0  # largest norm of all gradients together; 0: no clipping
# Decay of the EMA of weights and BatchNorm statistics, e.g. 0.9998; the EMA is evaluated and saved
# (model_best, final_state0, checkpoint); 0: none
_C.TRAIN.EMA = 0.0
# BatchNorm normalizes by its running statistics in training, too, and keeps them; its scale and
# offset are trained. For networks whose statistics are worth keeping (docs/shrink.md)
_C.TRAIN.FREEZE_NORMS = False
# Non-finite loss: "raise" stops before the next log line or checkpoint and names the step; "skip"
# skips the step (also for a non-finite gradient) and names it, but reads from the device at every
# step
_C.TRAIN.NON_FINITE = "raise"
_C.TRAIN.SAVE_EVERY = 1  # epochs between two checkpoints; 0: none. The last epoch is always saved
_C.TRAIN.SAVE_STEPS = 0  # steps between two checkpoints, also within epochs; 0: only SAVE_EVERY
_C.TRAIN.KEEP = 2  # checkpoints on disk: checkpoint.pth.tar, .1 (the one before), ...
_C.TRAIN.VALIDATE_EVERY = 0  # epochs between two evaluations (they set model_best); 0: never
_C.TRAIN.PATIENCE = 0  # evaluations in a row without a better AP that end the training; 0: never

# ------------------------------------------------------------------------------ evaluation
_C.TEST = CN()
_C.TEST.MODEL_FILE = ""  # "": the first of model_best, final_state0, checkpoint in OUTPUT_DIR
_C.TEST.IMAGES_PER_GPU = 1  # images of equal input size per forward pass
_C.TEST.FLIP_TEST = True
# No joints in rows and columns of the input that are all black, as where an image is padded to the
# aspect ratio of a fixed size (tools.export --size). False: as the original
_C.TEST.MASK_BORDERS = False
_C.TEST.SCALE_TYPE = "short"  # the side that becomes INPUT_SIZE: "short" or "long"
_C.TEST.SCALE_FACTOR = [1]  # factors of INPUT_SIZE; several: multi-scale test
_C.TEST.WITH_HEATMAPS = (True, True)  # stages whose heatmaps are averaged
_C.TEST.WITH_AE = (True, False)  # stages whose tags are read
_C.TEST.PROJECT2IMAGE = True  # maps are resized to the input's size before decoding
_C.TEST.NMS_KERNEL = 5  # a peak is the largest value of its window; an odd number
_C.TEST.NMS_PADDING = 2  # NMS_KERNEL // 2
_C.TEST.DETECTION_THRESHOLD = 0.1  # least heatmap value of a peak
_C.TEST.TAG_THRESHOLD = 1.0  # largest tag distance of a joint to its person
_C.TEST.USE_DETECTION_VAL = True  # round tag distances; the higher heatmap value breaks ties
_C.TEST.IGNORE_TOO_MUCH = False  # no new people beyond MAX_NUM_PEOPLE
_C.TEST.IGNORE_CENTER = True  # the center joint is not grouped
_C.TEST.ADJUST = True  # sub-pixel offset of peaks (MODEL.CODEC)
_C.TEST.REFINE = True  # search the missing joints of each person on the heatmaps
_C.TEST.LOG_PROGRESS = False  # accepted for old files; see VERBOSE

# ----------------------------------------------------------------- images in TensorBoard
_C.DEBUG = CN()
_C.DEBUG.DEBUG = True
_C.DEBUG.SAVE_BATCH_IMAGES_GT = False  # inputs with their joints
_C.DEBUG.SAVE_BATCH_IMAGES_PRED = False  # inputs with the predicted people
_C.DEBUG.SAVE_HEATMAPS_GT = True  # inputs next to target heatmaps
_C.DEBUG.SAVE_HEATMAPS_PRED = True  # inputs next to predicted heatmaps
_C.DEBUG.SAVE_TAGMAPS_PRED = False
