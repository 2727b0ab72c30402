# Two commands for a newcomer, on a machine with Python 3.10 or later:
#   make quickstart   install; render a data set; train a supernet; extract a sub-network, fine-tune
#                     and evaluate it; write images and a report
#   make test         install; check style and types; run the test suite
# and `make docs` for maintainers: write the computed tables and figures of docs/ again.
# VENV=DIR installs elsewhere; WORKERS=N sets the number of test processes.

PYTHON ?= python3
VENV := .venv
WORKERS := auto
RUN := "$(VENV)/bin/python"
SUPERNET := --cfg experiments/synthetic/supernet.yaml
SUBNET := --cfg experiments/synthetic/quickstart.yaml --superconfig experiments/synthetic/middle.json
RUN_DIR := output/coco_kpt/pose_supermobilenet/supernet
TRAINED := $(RUN_DIR)/checkpoint.pth.tar
EXTRACTED := $(RUN_DIR)/middle.pth.tar

.PHONY: quickstart test docs install clean

# By default glibc returns large buffers to the system after each step and asks for them again in
# the next. Keeping them makes training on a CPU a quarter faster (docs/performance.md).
quickstart: export MALLOC_MMAP_MAX_ := 0
quickstart: export MALLOC_TRIM_THRESHOLD_ := 1000000000000

quickstart: install
	$(RUN) -m tools.make_synthetic --root data/synthetic --train 4000 --val 200 --people 1-3
	$(RUN) dist_train.py $(SUPERNET) --superconfig experiments/synthetic/wide.json
	test -f $(EXTRACTED) || $(RUN) weight_transfer.py $(SUPERNET) \
		--superconfig experiments/synthetic/middle.json TEST.MODEL_FILE $(TRAINED)
	$(RUN) dist_train.py $(SUBNET) MODEL.PRETRAINED $(EXTRACTED)
	$(RUN) valid.py $(SUBNET) --vis 24 --report output/report
	@echo "The evaluation as a page: output/report/index.html"
	@echo "Curves and images of the training: $(VENV)/bin/tensorboard --logdir log"

# pyright comes with the JavaScript that runs it; without this setting it asks for newer versions.
test: export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
test: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(RUN) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

docs: install
	$(RUN) -m tools.paper.model_table --no-latency --doc docs/results.md --figures docs
	$(RUN) -m tools.draw_arch $(foreach S,XS S M L,mobile_configs/search-$(S).json) --out docs/architectures.svg

install:
	@test "$(VENV)/ready" -nt requirements.txt || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")' && \
		$(PYTHON) -m venv "$(VENV)" && \
		$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt && \
		touch "$(VENV)/ready"; }

clean:
	rm -rf "$(VENV)" data/synthetic log $(RUN_DIR) output/coco_kpt/pose_mobilenet/quickstart output/report
