PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
OUT ?= demo_out

.PHONY: install test torture lint demo demo-cls demo-seg zoo ablation heads calibration benchmark gpu-check docs clean

install: $(VENV)/.installed

# Made once, and again only when the pinned set changes.
$(VENV)/.installed: requirements.txt setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	    sys.exit(None if v >= (3, 11) else "mmqsdt needs Python >= 3.11, " \
	    "this is %d.%d; try make PYTHON=python3.11" % v[:2])'
	@echo "Installing into $(VENV): about three minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps -e .
	touch $@

test: install
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

# Faults, hostile files, processes, soak, fuzzing: at most 30 minutes on two
# cores; a slower machine gets fewer of each, and the table says so.
torture: install
	$(PY) -m experiments.torture --page docs/reliability.md

lint: install
	$(PY) -m ruff check .

demo: install
	$(PY) tools/prepare_data.py digits
	$(PY) tools/train.py configs/det/qsdt_maskrcnn_digits.py
	$(PY) tools/test.py configs/det/qsdt_maskrcnn_digits.py \
	    work_dirs/qsdt_maskrcnn_digits --show-dir $(OUT)/det --show-number 12

demo-cls: install
	$(PY) tools/prepare_data.py digits
	$(PY) tools/train.py configs/cls/qsdt_digits.py
	$(PY) tools/test.py configs/cls/qsdt_digits.py \
	    work_dirs/qsdt_digits --show-dir $(OUT)/cls --show-number 12

demo-seg: install
	$(PY) tools/prepare_data.py digits
	$(PY) tools/train.py configs/seg/qsdt_fpn_digits.py
	$(PY) tools/test.py configs/seg/qsdt_fpn_digits.py \
	    work_dirs/qsdt_fpn_digits --show-dir $(OUT)/seg --show-number 12

# The weights that ship: an hour on two cores.
zoo: install
	$(PY) tools/prepare_data.py digits
	$(PY) tools/train.py configs/cls/qsdt_digits.py
	$(PY) tools/train.py configs/det/qsdt_maskrcnn_digits.py
	$(PY) tools/train.py configs/seg/qsdt_fpn_digits.py
	$(PY) tools/zoo.py

ablation: install
	$(PY) tools/ablation.py

# Three seeds: docs/heads.md.
heads: install
	$(PY) tools/prepare_data.py digits
	$(PY) tools/compare_configs.py det/qsdt-float-heads_maskrcnn_digits.py \
	    det/qsdt_maskrcnn_digits.py det/qsdt_maskrcnn-stock-heads_digits.py \
	    --jobs 2 --out docs/heads_det.json --page docs/heads.md
	$(PY) tools/compare_configs.py seg/qsdt-float-head_fpn_digits.py \
	    seg/qsdt_fpn_digits.py seg/qsdt_fpn-stock-head_digits.py \
	    seg/r18-half_fpn_digits.py \
	    --jobs 2 --out docs/heads_seg.json --page docs/heads.md

# Three trainings and 18 short ones: docs/calibration.md.
calibration: install
	$(PY) tools/prepare_data.py digits
	$(PY) tools/calibration.py --out docs/calibration.json \
	    --page docs/calibration.md

docs: install
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# docs/performance.md. Nothing else should run meanwhile.
BENCHMARK = $(PY) tools/benchmark.py --page docs/performance.md
benchmark: install
	$(BENCHMARK) configs/cls/qsdt_imagenet.py --batches 1 4 16 \
	    --sizes 224 448 1024 --train 4 --memory --loading --profile
	$(BENCHMARK) configs/seg/qsdt-learned_fpn_ade20k.py --batches 1 \
	    --sizes 512
	$(BENCHMARK) configs/det/qsdt-learned_retinanet_coco.py --batches 1 \
	    --sizes 512
	$(BENCHMARK) configs/det/qsdt-learned_maskrcnn_coco.py --batches 1 \
	    --sizes 512
	$(PY) -m experiments.benchmark.summary --page docs/performance.md \
	    work_dirs/qsdt_imagenet/benchmark.json \
	    work_dirs/qsdt-learned_fpn_ade20k/benchmark.json \
	    work_dirs/qsdt-learned_retinanet_coco/benchmark.json \
	    work_dirs/qsdt-learned_maskrcnn_coco/benchmark.json

# On a machine with CUDA; says so and ends well on one without.
gpu-check: install
	$(PY) -m experiments.gpu_check --page docs/performance.md

clean:
	rm -rf work_dirs $(OUT) data/digits
