PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

ONBOARD := onboard,ros
TEST := $(ONBOARD),train,quantise,test,bench
ALL := $(TEST),fleet

# $(call install,EXTRAS): makes $(VENV) where it is missing and installs what it lacks.
define install
	@command -v "$(PYTHON)" >/dev/null || { echo "error: there is no $(PYTHON): install Python 3.10-3.12, or name one with PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" mtaclip_core/preflight.py
	@"$(PYTHON)" tools/install.py $(VENV) $(1)
endef

# A sourced ROS installation would mix its libraries with those of $(VENV).
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifdef ROS_DISTRO
unexport LD_LIBRARY_PATH ROS_DISTRO
endif

.PHONY: help run test bench soak setup clean

help:
	@echo 'make run     segment a generated drive with the real node: table, video and report in runs/ (installs what it needs)'
	@echo 'make test    all tests, ruff and mypy (installs PyTorch too, about 7 GB); ARGS="-k bag" goes to pytest'
	@echo 'make bench   speed of the model, of the node and of the transport, as JSON in runs/bench/ (12 minutes; ARGS=--quick: 3)'
	@echo 'make soak    100,000 frames, 1,000,000 hostile messages and 1,000 transitions: does the node stay as it was? (10 minutes)'
	@echo 'make setup   everything into $(VENV), for work on the project'
	@echo 'make clean   delete $(VENV) and what the tools left; runs/ stays'
	@echo 'PYTHON=python3.11 picks the interpreter for any of them'

run:
	$(call install,$(ONBOARD))
	@$(PY) -m mtaclip_ros.demo $(ARGS)

test:
	$(call install,$(TEST))
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 --dist loadfile --durations=15 $(ARGS)

# Numbers of different machines, or of one that has other work, do not compare.
bench:
	$(call install,$(ONBOARD))
	$(PY) -m mtaclip_core.benchmark --model street-tiny --size 360x480 --json runs/bench/model.json
	$(PY) -m mtaclip_ros.node_benchmark $(ARGS) --json runs/bench/node.json
	$(PY) -m mtaclip_ros.transport_matrix $(ARGS) --json runs/bench/transport.json

soak:
	$(call install,$(ONBOARD))
	$(PY) -m mtaclip_ros.soak --json runs/soak.json $(ARGS)

setup:
	$(call install,$(ALL))

clean:
	rm -rf $(VENV) $(VENV).old build install log dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
