# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow battery mutants lint clean

demo: $(VENV)/installed
	$(BIN)/dpo-lab loss.beta=0.5

test: $(VENV)/installed-dev
	$(BIN)/pytest

test-slow: $(VENV)/installed-dev
	$(BIN)/pytest -m slow

battery: $(VENV)/installed-dev
	$(BIN)/pytest -m battery tests/battery

mutants: $(VENV)/installed-dev
	$(BIN)/python tests/mutants/hunt.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

$(VENV)/bin/python:
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing dpo-lab and what it needs, versions as in constraints.txt (about a minute, and a network)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing what the tests need"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache dist build *.egg-info
