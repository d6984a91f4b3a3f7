# Two commands matter: `make run` and `make test`. Each sets up what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(shell cd protos && find . -name '*.proto' | sed 's|^\./||' | sort)

.PHONY: run test check setup setup-dev proto lock format letta bench soak capacity reference roblox test-letta test-redis test-luau test-browser fuzz clean

run: setup ## start every service with the tavern demo
	@$(BIN)/earshot up --demo

test: setup-dev ## every test that needs nothing but this machine
	@$(BIN)/pytest -m "not letta and not browser"

check: setup-dev ## lint, types, room boundaries, generated code up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy services tests bench docs/reference
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory proto OUT=$(VENV)/gen-check && diff -r -x __pycache__ gen $(VENV)/gen-check && echo "gen/ is up to date"
	@mkdir -p $(VENV)/docs-check && $(BIN)/python docs/reference/generator.py $(VENV)/docs-check && \
	  for page in settings grpc http; do diff docs/reference/$$page.md $(VENV)/docs-check/$$page.md || { echo "run: make reference"; exit 1; }; done

letta: ## the pinned Letta server on 127.0.0.1:8333 (installs it the first time; deploy/letta/stop.sh ends it)
	@deploy/letta/start.sh --port 8333

test-letta: setup-dev ## the tests against a real Letta server 0.16.8
	@deploy/letta/run-tests.sh $(BIN)/pytest -m letta

test-redis: setup-dev ## the shared store and its replicas on a real redis-server (needs redis-server)
	@$(BIN)/pytest tests/contract/test_stores.py tests/integration/test_redis_store.py tests/e2e/test_replicas.py

test-browser: setup-dev ## the Scope page in Debian's Chromium (needs chromium and chromium-driver)
	@$(BIN)/pytest -m browser

fuzz: setup-dev ## interleavings of sync and requests made from the contract, other ones every time (about half an hour)
	@INTERLEAVED_ROOMS=20 $(BIN)/pytest tests/unit/sync/test_interleavings.py
	@FUZZ_EXAMPLES=2000 $(BIN)/pytest -q tests/e2e/test_contract_fuzz.py

test-luau: setup-dev ## the Roblox SDK in a Luau VM against a real edge (needs Node 20)
	@$(BIN)/pytest -rP tests/e2e/test_roblox_sdk.py

roblox: ## the Roblox module as one file for Studio: Earshot.rbxmx
	@$(PYTHON) clients/roblox/build.py Earshot.rbxmx

bench: setup-dev ## every bench beside its peers (about 20 minutes; CORPUS=DIRECTORY: of conversations): docs/benchmarks.md
	@$(BIN)/python -m bench.everything $(if $(CORPUS),--corpus $(CORPUS))

SOAK_MINUTES ?= 60
soak: setup-dev ## an hour of churn and faults, a hundred kills, 1,000 conversations, 10,000 schedules of the floor (2 h)
	@$(BIN)/python -m tests.faults.soak --minutes $(SOAK_MINUTES)
	@$(BIN)/python -m tests.faults.rounds --rounds 100
	@$(BIN)/python -m tests.faults.rounds --rounds 25 --topology split
	@$(BIN)/earshot bench chat --seconds 600
	@$(BIN)/python -m bench.turns.schedules

capacity: setup-dev ## docs/capacity.md from the committed costs (MEASURE=--measure: measured anew)
	@$(BIN)/python -m bench.capacity $(MEASURE)

setup: $(VENV)/.runtime
setup-dev: $(VENV)/.dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Earshot needs Python >= 3.11; set PYTHON=python3.x"; exit 1; }
	@echo "Making the environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# The development lock holds everything of the runtime lock at the same versions.
$(VENV)/.runtime: $(VENV)/bin/python requirements.lock pyproject.toml
	@test -f $(VENV)/.dev || $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python requirements-dev.lock pyproject.toml
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime

reference: setup-dev ## the reference pages, from the code and the contracts
	@$(BIN)/python docs/reference/generator.py

OUT ?= gen
proto: ## generate gen/ from protos/
	@rm -rf $(OUT) && mkdir -p $(OUT)
	@$(BIN)/python -m grpc_tools.protoc -I protos \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=$(OUT) --mypy_out=quiet:$(OUT) --grpc_python_out=$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTOS)
	@rm -f $(OUT)/earshot/type/v1/type_pb2_grpc.py $(OUT)/earshot/type/v1/type_pb2_grpc.pyi

lock: ## renew the hash-pinned locks (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
	  pyproject.toml --group build -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
	  pyproject.toml --extra discord --group build -c requirements.lock -o requirements-discord.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
	  pyproject.toml --all-extras --group build --group dev -c requirements.lock -o requirements-dev.lock

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .earshot .mypy_cache .ruff_cache .pytest_cache .hypothesis
