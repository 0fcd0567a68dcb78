# Each target works from a fresh clone: the virtual environment is made on first need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(shell find cpp -type f 2>/dev/null) CMakeLists.txt pyproject.toml
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install serve test check fix docs bench fuzz attack audit lock soak sbom wheel native clean model

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.tools: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -q --group pyproject.toml:dev
	touch $@

$(STAMP): $(VENV)/.tools $(NATIVE)
	$(BIN)/python -m pip install -q --no-build-isolation -e .
	touch $@

install: $(STAMP)  ## Build and install into .venv

serve: install  ## Answer clients: MODEL=path for a bigger model, ARGS="--port 8081"
	$(BIN)/llamakit serve $(if $(MODEL),-m "$(MODEL)") $(ARGS)

test: install  ## Build and run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not soak" $(ARGS)

check: install  ## Lint, types, C++ format, docs current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/clang_format.py --check
	$(BIN)/python tools/make_docs.py --check

fix: install  ## Format everything, repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/clang_format.py
	$(BIN)/python tools/make_docs.py

docs: install  ## Regenerate the generated pages of docs/
	$(BIN)/python tools/make_docs.py

fuzz: install  ## Mutated GGUF files under sanitizers; grammars against other judges
	$(BIN)/python tests/fuzz/run.py --count $(or $(COUNT),200000)
	$(BIN)/python tests/fuzz/grammar.py --count $(or $(COUNT),100000)

attack: install  ## Attack a server and the reader of files, for minutes: ARGS="--requests 10000 --minutes 1"
	$(BIN)/python tests/attack/run.py $(ARGS)

soak: install  ## The tests that take minutes
	$(BIN)/python -m pytest -m soak $(ARGS)

bench: install  ## The small benchmarks; benchmarks/ has the larger ones
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script; done

sbom: install  ## What LlamaKit is made of, as a CycloneDX document in dist/
	mkdir -p dist
	$(BIN)/python tools/sbom.py dist/llamakit.cdx.json

lock: install  ## Pin what is needed to run, with hashes, in requirements.lock
	$(BIN)/python tools/lock.py

audit: install  ## Look for known faults in what requirements.lock pins; needs the network
	-$(BIN)/python -m pip install -q "pip-audit>=2.7,<3"
	$(BIN)/python tools/audit.py

wheel: $(VENV)/.tools  ## Build an installable wheel into dist/
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .

model: install  ## Train the small model of tools/curriculum: OUT=folder, TALES=file, ARGS="--recipe light"
	PYTHONPATH=tools $(BIN)/python -m curriculum.recipe $(or $(OUT),build/model) $(if $(TALES),--tales "$(TALES)") $(ARGS)

# One native module, rebuilt alone into the editable install: `make native M=_text`
native: $(VENV)/.tools
	cmake -S . -B build/native-$(M) -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > build/native-$(M).log
	cmake --build build/native-$(M) --target $(M)
	cmake --install build/native-$(M) --component $(M) \
	  --prefix $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

clean:  ## Remove everything that was built
	rm -rf build dist $(VENV)
