.DEFAULT_GOAL := help
.PHONY: help style quality test slow-test lowest-test help-texts

sources := hf_focal metrics scripts tests benchmarks setup.py

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

style:  ## Format the code and sort the imports
	ruff check --fix $(sources)
	ruff format $(sources)

quality:  ## Check format, lint, types and who imports whom
	ruff check $(sources)
	ruff format --check $(sources)
	mypy
	lint-imports

help-texts:  ## Write what --help of each command prints
	python -m hf_focal.cli.help_texts

test:  ## Run the tests
	python -m pytest

lowest-test:  ## Run the tests with the lowest versions that setup.py allows, in an environment of their own
	python tests/lowest_versions.py

slow-test:  ## Run the tests that take minutes
	python -m pytest -m slow
