# One word per task. Each makes the virtual environment .venv when it is missing or older than
# pyproject.toml or constraints.txt; nothing outside this folder is touched.
#
#   make demo     the whole service on this machine, on made-up films
#   make test     every test (ARGS='-k film' picks some)
#   make check    formatting, lint, types and layers
#   make bench    the measurements in tests/bench: half an hour or more (ARGS=--quick: minutes)
#   make image    the control image, built without a daemon, runs the demo (root, buildah, debootstrap)
#   make clean    remove what these targets made

# The first Python that is new enough and can make a virtual environment. It is run, not only found:
# a version manager's shims stand in the PATH for versions that are not switched on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& { echo $$p; break; }; done)

ARGS ?=
BIN := .venv/bin
BENCHES = $(filter-out tests/bench/_%,$(sort $(wildcard tests/bench/*.py)))

# The caller's environment must not decide which packages are seen.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

.PHONY: demo test check bench clean

demo: .venv/complete
	$(BIN)/pneumoq demo

test: .venv/complete
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 $(ARGS)

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
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

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
