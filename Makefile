# Which builds of the OpenMMLab toolboxes: onedl (the maintained ones) or openmmlab (the original releases).
STACK ?= onedl
VENV ?= $(if $(filter openmmlab,$(STACK)),.venv-openmmlab,.venv)
PY := $(VENV)/bin/python
export STACK VENV

DEMO_CONFIG := configs/mask_rcnn_secvit_digits.py
DEMO_DIR := work_dirs/demo

# One process for each core, each with one thread (set in tests/conftest.py).
PYTEST := -m pytest -n logical --maxprocesses 4 --dist worksteal

.PHONY: help env demo test test-all coverage lint docs

help:
	@echo 'make demo       train a small Mask R-CNN with SecViT on scenes of handwritten digits, evaluate it, draw what it sees'
	@echo 'make test       run the tests, except the slow ones'
	@echo 'make test-all   run all tests'
	@echo 'make coverage   run all tests, and name the lines of mmsecvit/ that no test runs'
	@echo 'make lint       run the linters'
	@echo 'make docs       build the documentation into site/'
	@echo 'make env        build the environment; all the others do this first'
	@echo
	@echo 'STACK=onedl|openmmlab   which builds of the OpenMMLab toolboxes (now: $(STACK))'
	@echo 'VENV=DIR                where the environment goes (now: $(VENV))'
	@echo 'PYTHON=python3.11       the interpreter to build it from'

env:
	@tools/make_env.sh

# The first lines of a recipe: they choose the device for the lines that follow in the same shell.
choose_device = set -eu; \
	if $(PY) -c 'import torch, mmcv.ops as ops; exit(not (torch.cuda.is_available() and ops.get_compiling_cuda_version() == "not available"))'; then \
	    echo "This runs on the CPU: there is a GPU, but mmcv's ops were compiled without CUDA."; \
	    export CUDA_VISIBLE_DEVICES=-1; \
	fi

demo: env
	@$(choose_device); \
	echo '[1/4] Compose scenes of handwritten digits'; \
	$(PY) demo/digit_scenes.py data/digit_scenes; \
	echo '[2/4] Train'; \
	$(PY) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR) --resume; \
	echo '[3/4] Evaluate, and draw the predictions'; \
	$(PY) tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/last_checkpoint)" --work-dir $(DEMO_DIR)/test --show-dir $(DEMO_DIR)/predictions; \
	echo '[4/4] Plot the training log'; \
	$(PY) tools/analysis/plot_log.py $(DEMO_DIR); \
	echo; \
	echo 'Made by the demo:'; \
	printf '  %-32s %s\n' \
	    data/digit_scenes 'the scenes, with boxes and masks as COCO JSON' \
	    "$$(realpath --relative-to=. "$$(cat $(DEMO_DIR)/last_checkpoint)")" 'the trained detector' \
	    $(DEMO_DIR)/predictions 'what it sees on the validation scenes' \
	    $(DEMO_DIR)/curves.png 'loss and AP over the training'

test: env
	@$(choose_device); \
	$(PY) $(PYTEST) -m 'not slow'

test-all: env
	@$(choose_device); \
	$(PY) $(PYTEST)

coverage: env
	@$(choose_device); \
	$(PY) $(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

lint: env
	@PATH="$(abspath $(VENV))/bin:$$PATH" pre-commit run --all-files

docs: env
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements/docs.txt
	@$(PY) -m mkdocs build --strict
