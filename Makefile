# Needs make and a Python 3.11, 3.12 or 3.13; `make PYTHON=python3.12 …` chooses one.
.POSIX:
.PHONY: help run venv test quick slow check lint proto matrix chaos fuzz simulate bench bench-peers docs release cut constraints audit clean

BIN = .venv/bin
# Many tests wait, for processes and for time: with two workers more than cores, none of these is idle then.
WORKERS = 4

help:
	@echo "make run     set up .venv and start the gateway (polku serve; POLKU_* variables configure it)"
	@echo "make test    set up .venv and run everything: lint, types, generated code, tests"
	@echo "make quick   lint, types, and the tests that start no process: the loop while you work"
	@echo "make slow    the longer twins of tests: more on Ray, more examples of properties, lost nodes, every Python and protobuf"
	@echo "make check   the same; it is what continuous integration runs"
	@echo "make lint    lint, format and types only"
	@echo "make docs    build the documents as a site, in docs/_build/html; warnings are errors"
	@echo "make venv    only set up .venv, with the polku command in it"
	@echo "make proto   generate the Python code of proto/ again"
	@echo "make matrix  test every Python with every protobuf (minutes)"
	@echo "make chaos   kill, stop and break things under load for ten minutes in each runtime; nothing may be lost"
	@echo "make fuzz    fuzz what reads bytes of strangers, a minute each (FUZZ_SECONDS=600 for longer); installs atheris"
	@echo "make simulate  run generated pipelines in virtual time, failures and all (SECONDS=60 for less than ten minutes)"
	@echo "make bench   measure the table of targets (an hour; ROUNDS=1 or QUICK=1 for less) into tests/bench/results"
	@echo "make bench-peers compare with the OpenTelemetry Collector, which is built of its Go modules (needs go)"
	@echo "make release build the wheels and the sdist into dist/, check them, and try them on every Python that is here"
	@echo "make cut     head the changelog with VERSION=0.2.0, and set the version"
	@echo "make constraints  write the hashes of what POLKU needs again, into .ci/hashes.txt"
	@echo "make audit   look what POLKU needs up in the database of known vulnerabilities; needs the network"
	@echo "make clean   remove everything that was made"

run: venv
	@exec $(BIN)/polku serve

venv: .venv/stamp

.venv/stamp: pyproject.toml .ci/constraints.txt
	@PYTHON="$(PYTHON)" .ci/venv

test: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

quick: lint
	$(BIN)/python -m pytest -n 2 tests/core tests/aio tests/batch tests/link tests/stage tests/middleware \
		tests/ingest tests/http2 tests/ahti tests/buffer tests/runtime

slow: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or matrix or hypothesis" --hypothesis-profile long

check: test

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: venv
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/trees docs docs/_build/html
	@echo "docs/_build/html/index.html"

proto: venv
	$(BIN)/python .ci/proto.py

chaos: venv
	$(BIN)/python -m tests.chaos --seconds 600

fuzz: venv
	$(BIN)/python -m pip --disable-pip-version-check --quiet install atheris
	$(BIN)/python -m tests.fuzz --seconds $${FUZZ_SECONDS:-60}

simulate: venv
	$(BIN)/python -m tests.simulation --seconds $${SECONDS:-600} --jobs 2

bench: venv
	$(BIN)/python -m tests.bench.table --rounds $${ROUNDS:-5} $${QUICK:+--quick}

bench-peers: venv
	$(BIN)/python -m tests.bench.peers --rounds $${ROUNDS:-5}

matrix: venv
	$(BIN)/python -m pytest -m matrix tests/packaging/test_versions.py

release: venv
	@test -x .venv-bom/bin/python || $(BIN)/python -m venv .venv-bom
	.venv-bom/bin/python -m pip --disable-pip-version-check --quiet install -c .ci/constraints.txt cyclonedx-bom
	$(BIN)/python .ci/release.py build
	$(BIN)/python .ci/release.py install

# The hashes of all files of the versions in .ci/constraints.txt, for every system and Python.
constraints: venv
	$(BIN)/python -m pip --disable-pip-version-check --quiet install uv
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11.7 --generate-hashes \
		--extra fast --extra kafka --no-annotate --no-header --no-emit-index-url -c .ci/constraints.txt -o .ci/hashes.txt

audit: venv
	$(BIN)/python -m pip --disable-pip-version-check --quiet install pip-audit
	$(BIN)/pip-audit --disable-pip --require-hashes -r .ci/hashes.txt

cut: venv
	$(BIN)/python .ci/release.py cut "$(VERSION)"

clean:
	rm -rf .venv .venv-proto .venv-matrix .venv-bom build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
