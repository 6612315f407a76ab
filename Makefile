# Two commands do everything, set-up included: `make demo` and `make test`.

.DEFAULT_GOAL := help

##@ Main
demo: setup ## from nothing to a streamed answer: a local cluster, Warmfleet, a tiny model on real vLLM
	hack/demo

test: setup ## lint and all tests: unit, engine (real vLLM), cluster (real API server), e2e (real kubelets, containers, vLLM)
	hack/test

##@ Parts
setup: ## install and build what the two commands need; quiet when there is nothing to do
	@hack/setup

python:
	@hack/setup python

lint: python ## ruff, mypy, import-linter, generated files
	hack/test lint

test-unit: python ## the tests that need nothing but Python
	hack/test unit

test-engine: setup ## runners with real vLLM on this machine, without a cluster
	hack/test engine

test-cluster: setup ## the operator against a real API server with fake nodes
	hack/test cluster

test-e2e: setup ## Warmfleet installed in a cluster of three real nodes
	hack/test e2e

verify: python ## generated files: CRD, reference page, table of vLLM's options where the image is built
	hack/verify

images: setup ## build the container images that are out of date
	hack/images/build

format: python ## let ruff mend what it can
	.venv/bin/ruff check --fix operator runtime hack tests
	.venv/bin/ruff format operator runtime hack tests

##@ Benchmarks
bench-operator: setup ## 200 models on 100 fake nodes: seconds, API writes, CPU and memory as JSON
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.operator

bench-admission: setup ## real vLLM: High in a full engine, Low's wait, merging, goodput and refusals, as JSON
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.admission

bench-throughput: setup ## real vLLM: tokens per second and latencies at 1 to 128 at once, with and without the runner
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.throughput

bench-start: setup ## a model's start by `vllm serve`, exec, zygote and wake; 1 to 8 at once
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.start

bench-sleep: setup ## real vLLM: what the sleep of an engine frees, and what its wake costs
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.sleep

bench-store: setup ## the weight store: fill beside cp, promote, evict; one model read by 1 to 4 runners; huge pages
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.store

bench-storm: setup ## 100 starts for 10 GPUs on 500 fake nodes: inversions, double bookings, freed to given; operator killed
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.storm

bench-compile: setup ## real vLLM: a start that compiles, and one on another node that begins with what the first compiled
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.compile

bench-contention: setup ## real vLLM: four models, one runner with room for two, beside the emulator's prediction
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.contention

bench-recovery: setup ## real vLLM on real nodes: from the loss of a pod or node until a runner elsewhere answers
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.recovery

bench-eviction: python ## hit rates of the agent's plan on a node for 10 of 50 models, beside LRU, LFU and Belady's optimum
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.eviction

bench-schedule: python ## one round of the scheduler: 500 to 4,000 nodes, 5,000 to 40,000 engines, 1,000 to 8,000 waiting starts
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.schedule

bench-emulator: python ## simulated fleets beside lower bounds: the reference table, 1,000 random fleets, two traces; others' ways too
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.emulator

bench-router: python ## our router, vllm-router and smg on one backend: CPU per request, first bytes, 5,000 streams
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.router

bench-hold: python ## 100 requests for a sleeping model whose engine is there after 4 s: ours, vllm-router and smg
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.hold

##@ Other
clean: ## remove what was built in the tree; clusters: `hack/cluster down`; caches: ~/.cache/warmfleet
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo test setup python lint test-unit test-engine test-cluster test-e2e verify images format bench-operator bench-start bench-sleep bench-admission bench-throughput bench-store bench-compile bench-eviction bench-schedule bench-storm bench-router bench-hold bench-recovery bench-contention clean help
