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
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.operator $(ARGS)

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

bench-zone: setup ## a zone of 500 fake nodes with 1,000 models lost: seconds by standby and class, and the emulator's; ARGS="--nodes 30"
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.zone $(ARGS)

bench-flapping: setup ## a fake node that loses its power for 5 s again and again for 5 minutes: how often its models are promoted
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.flapping $(ARGS)

bench-compile: setup ## real vLLM: a start that compiles, and one on another node that begins with what the first compiled
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.compile

bench-contention: setup ## real vLLM: four models, one runner with room for two, beside the emulator's prediction
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.contention

bench-recovery: setup ## real vLLM on real nodes: from the loss of a pod or node until a runner elsewhere answers
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.recovery

bench-failover: setup ## real vLLM on real nodes: power-off under load with each kind of standby and none, n = 10 (ROUNDS=3, MODES="hot warm" to shorten)
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.failover $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(MODES),--modes $(MODES))

bench-scaling: setup ## replicas that follow demand: three policies on one trace as a picture; a real autoscaler, 1 to 5 to 1 to 0
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.scaling

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

bench-rolling: setup ## runners and routers of a real cluster replaced under 100 requests a second; killed ones as a control
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.rolling

bench-rollout: setup ## a model changed, tried, broken and rolled back under 100 requests a second: what is lost, how many are Ready
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.rollout

bench-drain: setup ## `kubectl drain` of three nodes under load: seconds, what is lost, how many are Ready; without the budget as a control
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.drain

bench-outage: setup ## API server and operator away for five minutes under load, a router restarted meanwhile
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.outage

bench-replay: setup ## a trace of real requests sped up to 1,000 a second, through the routers of a real cluster: [TRACE=PATH]
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.replay $(TRACE)

bench-backends: python ## one of four backends, and one of two routers, killed under load: what clients lose
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.backends

bench-overload: python ## three times the capacity for two minutes, then a tenant that floods the others
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.overload

bench-bad-input: python ## hostile and slow clients of the router: how soon they are answered, what others notice
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.bad_input

check-foreign: python ## our router in front of a server that is not ours: make check-foreign BACKEND=http://127.0.0.1:8000
	PYTHONPATH=hack:tests .venv/bin/python -P -m bench.foreign $(or $(BACKEND),http://127.0.0.1:8000)

##@ Other
clean: ## remove what was built in the tree; clusters: `hack/cluster down`; caches: ~/.cache/warmfleet
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo test setup python lint test-unit test-engine test-cluster test-e2e verify images format bench-operator bench-start bench-sleep bench-admission bench-throughput bench-store bench-compile bench-eviction bench-scaling bench-schedule bench-storm bench-zone bench-flapping bench-router bench-hold bench-recovery bench-failover bench-contention bench-rolling bench-rollout bench-drain bench-outage bench-replay bench-backends bench-overload bench-bad-input check-foreign clean help
