PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test coverage check docs lint types dist clean

# Under a minute after installation: the gate, and a small experiment on synthetic data, with tables and figures in build/demo.
demo: .venv/ready
	rm -rf build/demo
	mkdir -p build/demo
	$(BIN)/python examples/gate.py --out build/demo/gate.png
	$(BIN)/python examples/mosei_lstm.py --feedback none linear --samples 250 --seeds 2 --epochs 4 --out build/demo

# Several processes of one thread each: threads of torch that wait for each other slow one another down. Bytecode is written,
# or each process of a test would compile the package anew.
test coverage: export OMP_NUM_THREADS = 1
unexport PYTHONDONTWRITEBYTECODE
test: .venv/ready
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist worksteal

# Not in `check`: to measure takes as long as the tests.
coverage: .venv/ready
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 -m "not uncovered" --cov

check: lint types test dist docs
	rm -rf build/tiny build/tiny-mult
	$(BIN)/python examples/mosei_lstm.py --samples 64 --epochs 1 --seeds 1 --out build/tiny
	$(BIN)/python examples/mosei_mult.py --samples 32 --epochs 1 --seeds 1 --unaligned --out build/tiny-mult

# The site, in build/docs: warnings are errors, no network. Its code blocks and links are tests.
docs: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -q docs build/docs

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

# Builds sdist and wheel, checks what is in them, and imports the wheel from another directory, without dependencies.
dist: .venv/ready
	rm -rf dist build/dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/distribution.py dist
	$(PYTHON) -m zipfile -e dist/*.whl build/dist/site
	cd build/dist && PYTHONPATH=site ../../$(BIN)/python -c "import topdown, topdown.adapters.reference, topdown.datasets, topdown.cli.main; \
	assert topdown.__file__.startswith('$(CURDIR)/build/dist/site'), topdown.__file__; \
	assert topdown.adapters.__file__.startswith('$(CURDIR)/build/dist/site'); print('wheel', topdown.__version__)"

.venv/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[experiments,frameworks,hub,models,onnx,tensorboard,test]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
