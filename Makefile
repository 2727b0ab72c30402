# Two commands for a newcomer, on a bare machine with Python 3.10 or later:
#   make quickstart   install, draw a data set, train a network, evaluate it, leave pictures
#   make test         install, check the style, run the whole test suite

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SMALL := --cfg experiments/synthetic/quickstart.yaml --superconfig experiments/synthetic/wide.json

.PHONY: quickstart test clean

quickstart: $(VENV)/ready
	$(RUN) -m tools.make_synthetic --root data/synthetic --train 4000 --val 200 --people 1-3
	$(RUN) dist_train.py $(SMALL)
	$(RUN) valid.py $(SMALL) --vis 24
	@echo "Curves and pictures of the training: tensorboard --logdir log"

test: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m pytest

$(VENV)/ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) data/synthetic output/coco_kpt/pose_mobilenet/quickstart log
