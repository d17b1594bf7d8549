# One word per task. Each makes the virtual environment .venv when it is missing or older than
# pyproject.toml or constraints.txt; nothing outside this folder is touched.
#
#   make demo     the whole service on this machine, on made-up films
#   make test     the tests (ARGS='-k film' picks some)
#   make soak     the long tests with all their repetitions: hours (PART=3: one part, in minutes;
#                 `make soak-part` prints the part that goes with a commit)
#   make mutants  faults are put into the code one at a time: the tests must notice each (part of soak)
#   make check    formatting, lint, types and layers
#   make bench    the measurements in tests/bench: half an hour or more (ARGS=--quick: minutes)
#   make test-gpu what needs an NVIDIA GPU: its tests, then its benchmark (ARGS=--quick for that one)
#   make image    the control image, built without a daemon, runs the demo (root, buildah, debootstrap)
#   make clean    remove what these targets made

# The first Python that is new enough and can make a virtual environment. It is run, not only found:
# a version manager's shims stand in the PATH for versions that are not switched on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& { echo $$p; break; }; done)

ARGS ?=
BIN := .venv/bin
BENCHES = $(sort $(wildcard tests/bench/*.py tests/bench/acquisition/*.py tests/bench/decoding/*.py tests/bench/judging/*.py))

# The caller's environment must not decide which packages are seen.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
# Every process that is started would compile the program anew.
unexport PYTHONDONTWRITEBYTECODE

# Twice as many processes as cores: tests wait for the processes that they start. Those that share
# something expensive run in one of them, the longest first.
PYTEST = $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup --no-loadscope-reorder
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(8, 2 * len(os.sched_getaffinity(0))))')

# What a GPU machine needs besides. On a Jetson torch and TensorRT are NVIDIA's own, and are seen by
# the environment; elsewhere GPU_EXTRAS=rtx takes TensorRT-RTX in TensorRT's place.
ifneq ($(wildcard /etc/nv_tegra_release),)
GPU_EXTRAS ?= jetson
GPU_VENV := --system-site-packages
else
GPU_EXTRAS ?= train,tensorrt
endif
# Where no environment can be made (no network, say), the Python that is at hand runs the same.
GPU_PYTHON = $(if $(wildcard .venv-gpu/complete),.venv-gpu/bin/python,PYTHONPATH="$(CURDIR):$(PYTHONPATH)" python3)

# They run beside each other: a second thread of one would only wait, spinning, for the first.
test soak mutants: export OMP_NUM_THREADS = 1

.PHONY: demo test soak soak-part soak-parts mutants test-gpu measured-on-gpu check bench clean

demo: .venv/complete
	$(BIN)/pneumoq demo

test: .venv/complete
	$(PYTEST) $(ARGS)

# Which part of the soak goes with a commit, and how many parts there are.
COMMIT ?= $(shell git rev-parse HEAD)
soak-part soak-parts: .venv/complete
	@$(BIN)/python -m tests.support.order $(if $(findstring parts,$@),,$(COMMIT))

soak: .venv/complete
	SOAK=$(if $(PART),part,full) $(PYTEST) $(if $(PART),--part $(PART)) $(ARGS)

mutants: .venv/complete
	SOAK=full $(PYTEST) tests/mutants $(ARGS)

test-gpu:
	@why=$$($(or $(PYTHON),python3) -c 'from worker import gpu; print(gpu.why_none())') || exit 1; \
	if test -n "$$why"; then echo "nothing to test: $$why"; exit 0; fi; \
	$(MAKE) --no-print-directory .venv-gpu/complete \
		|| echo "no environment could be made; the Python that is at hand is used"; \
	$(MAKE) --no-print-directory measured-on-gpu

measured-on-gpu:
	$(GPU_PYTHON) -m pytest -m gpu tests
	$(GPU_PYTHON) -m tests.bench.gpu $(ARGS)

check: .venv/complete
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/complete
	@missed=0; for file in $(BENCHES); do \
		module=$$(echo $${file%.py} | tr / .); \
		echo "== $$module"; $(BIN)/python -m $$module $(ARGS) || missed=1; \
	done; exit $$missed

.PHONY: image
image:
	docker/try-control.sh $(ARGS)

clean:
	rm -rf .venv .venv-gpu build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The stamp is gone while the environment changes: after an interruption it is made anew, not trusted.
.venv/complete: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "no Python >= 3.10 with venv found: install one, or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	if test -f $@; then rm $@; else $(PYTHON) -m venv --clear .venv; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode \
		-c constraints.txt -b constraints.txt -e '.[train,postgres,dev]'
	touch $@

# nvcc compiles PyCUDA; on a Jetson it is in no PATH.
.venv-gpu/complete: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python >= 3.10 with venv found" >&2; exit 1; }
	if test -f $@; then rm $@; else $(PYTHON) -m venv --clear $(GPU_VENV) .venv-gpu; fi
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$$PATH:/usr/local/cuda/bin" .venv-gpu/bin/python -m uv pip install \
		--python .venv-gpu/bin/python -c constraints.txt -b constraints.txt \
		-e '.[$(GPU_EXTRAS),postgres,dev]'
	touch $@
