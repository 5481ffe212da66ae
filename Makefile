# `make demo` and `make test` are all that is needed; both set everything up first.
SHELL := /bin/bash
# Where a real ROS 2 is used, the workspace has its own prefix; with the wheels nothing has to be sourced.
WORKSPACE := $(PWD)/ros2_ws/install/setup.bash
ENVIRONMENT = unset _ROS_WHEELS_BOOTSTRAP_COMPLETE; if [ -f $(WORKSPACE) ]; then . $(WORKSPACE); fi;

.PHONY: help setup demo test check clean

help:
	@echo "make setup   set everything up in this folder (idempotent)"
	@echo "make demo    the whole loop in simulation: collect, score, train, evaluate, promote (runs/demo)"
	@echo "make test    formatting, types and all tests"
	@echo "make clean   remove everything that set-up and runs have created"

setup:
	@./scripts/setup.sh

demo: setup
	@$(ENVIRONMENT) exec .venv/bin/grape loop --output runs/demo

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy -p grape_episodes -p grape_policy -p grape_preference -p grape_sim -p grape_training
	.venv/bin/mypy scripts launch benchmarks

test: check
	@$(ENVIRONMENT) exec .venv/bin/python -m pytest

clean:
	rm -rf .venv ros2_ws/build ros2_ws/install ros2_ws/log runs
