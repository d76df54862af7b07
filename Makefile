# Every target sets up .venv by itself; a set-up that is up to date costs nothing.
#
#   PYTHON=python3.12   interpreter that .venv is made with (3.10 to 3.13; default python3)
#   TORCH_BACKEND=cpu   which PyTorch to install: cpu, cuda or auto (default: cuda if nvidia-smi lists a GPU)
#   ARGS="..."          further arguments for train, test, test-slow, bench, gallery and lock
#   WORKERS=2           processes that the tests run in (default: one a core, at most 8; 0 is for debuggers)

STAMP := .venv/.ready

# An interpreter or a back end that was asked for by name is compared with the .venv that is there.
ifneq ($(PYTHON)$(TORCH_BACKEND),)
$(STAMP): FORCE
endif

PYTHON ?= python3
ARGS ?=
WORKERS ?= auto

CHECK_PYTHON = import sys; v = sys.version_info; (3, 10) <= v[:2] <= (3, 13) or \
	sys.exit("error: found Python %d.%d.%d, but 3.10, 3.11, 3.12 or 3.13 is needed; choose one with PYTHON=..." % v[:3])

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup train test test-slow check bench docs gallery lock FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## set up .venv only

train: $(STAMP) ## train MADPO on ShadowHandOver; ARGS="seed=1 max_iterations=50" overrides settings
	.venv/bin/python train.py task=ShadowHandOver algo=madpo num_envs=128 $(ARGS)

# Workers that are done take tests from the others. Plugins that Hydra and others bring cost seconds.
PYTEST = @.venv/bin/python -m pytest --disable-plugin-autoload -p xdist -p pytest_timeout \
	--numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

test: $(STAMP) ## run the tests; ARGS="-k divergence" selects some
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(STAMP) ## run those that take minutes
	$(PYTEST) -m slow $(ARGS)

check: $(STAMP) ## lint, check the format and the types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright

bench: $(STAMP) ## measure throughput
	.venv/bin/python benchmarks/throughput.py $(ARGS)

docs: $(STAMP) ## build the API reference into docs/_build
	@# GLFW, which MuJoCo imports, asks a process of its own for its version.
	PDOC_ALLOW_EXEC=1 .venv/bin/pdoc --docformat google --no-show-source --output-directory docs/_build \
		madpo_isaac madpo_isaac.algos.base madpo_isaac.sim.base madpo_isaac.tasks.hands

gallery: $(STAMP) ## write docs/gallery.md; ARGS="runs/<experiment>" makes a policy of a run first
	.venv/bin/python tools/gallery.py $(ARGS)

lock: $(STAMP) ## write constraints.txt anew; ARGS="--upgrade" takes the newest versions
	.venv/bin/python tools/lock.py $(ARGS)

$(STAMP): pyproject.toml constraints.txt tools/setup_venv.py
	@command -v $(PYTHON) >/dev/null || { echo 'error: no "$(PYTHON)" found; name a Python 3.10 to 3.13 with PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	@$(PYTHON) tools/setup_venv.py

FORCE:
