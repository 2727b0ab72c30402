# Two commands for a newcomer, on a bare machine with Python 3.10 or later:
#   make quickstart   install, draw a data set, train a supernet, cut a sub-network out of it,
#                     fine-tune and evaluate it, leave pictures and a report
#   make test         install, check the style, run the whole test suite

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SUPERNET := --cfg experiments/synthetic/supernet.yaml
SUBNET := --cfg experiments/synthetic/quickstart.yaml --superconfig experiments/synthetic/middle.json
TRAINED := output/coco_kpt/pose_supermobilenet/supernet/checkpoint.pth.tar
CUT := output/coco_kpt/pose_supermobilenet/supernet/middle.pth.tar

.PHONY: quickstart test clean

# glibc returns large buffers to the system after each step, to ask for them again in the next; kept,
# training on a CPU is a quarter faster (docs/performance.md).
quickstart: export MALLOC_MMAP_MAX_ := 0
quickstart: export MALLOC_TRIM_THRESHOLD_ := 1000000000000

quickstart: $(VENV)/ready
	$(RUN) -m tools.make_synthetic --root data/synthetic --train 4000 --val 200 --people 1-3
	$(RUN) dist_train.py $(SUPERNET) --superconfig experiments/synthetic/wide.json
	test -f $(CUT) || $(RUN) weight_transfer.py $(SUPERNET) \
		--superconfig experiments/synthetic/middle.json TEST.MODEL_FILE $(TRAINED)
	$(RUN) dist_train.py $(SUBNET) MODEL.PRETRAINED $(CUT)
	$(RUN) valid.py $(SUBNET) --vis 24 --report output/report
	@echo "The evaluation as a page: output/report/index.html"
	@echo "Curves and pictures of the training: tensorboard --logdir log"

test: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m pytest

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) data/synthetic log output/coco_kpt/pose_supermobilenet/supernet \
		output/coco_kpt/pose_mobilenet/quickstart output/report
