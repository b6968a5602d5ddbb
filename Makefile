# Patchbay. Go and make are all that is needed; what tests need beyond that
# (a Docker engine, python, a C compiler for -race) is ensured by test/*.sh.

SHELL      := /bin/bash
GO         ?= go
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS    := -s -w -X main.version=$(VERSION)
# Pinned, so that lint says the same everywhere until somebody changes it here.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
# Inputs per fuzz target in make test; make fuzz FUZZ_RUNS=10000000 looks longer.
FUZZ_RUNS ?= 10000
ONLY       ?= .
GENERATED  := manifests/schema core/api/openapi.json

.DEFAULT_GOAL := help
.PHONY: help build plugins upstream run demo test unit fault vm bench lint generate check-generated fuzz clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

build: ## bin/patchbay
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/patchbay ./cmd/patchbay

plugins: ## bin/plugins/*: the tiny plugins of the examples and tests
	@test/build-plugins.sh

upstream: ## bin/upstream/*: go-plugins that others wrote, for manifests/upstream; some minutes the first time
	@test/build-upstream.sh

run: build plugins ## Start a daemon with the examples, show them at work, keep serving until Ctrl-C
	@test/demo.sh stay

demo: build plugins ## The same as run, in a folder of its own, and exit
	@test/demo.sh exit

test: build plugins ## Everything: engine, python, -race, real plugins of others, stories, short fuzz
	@FUZZ_RUNS=$(FUZZ_RUNS) test/all.sh

unit: ## Tests that need nothing but Go: no engine, no python, no real plugins of others
	$(GO) test ./core/... ./sdk/... ./cmd/... ./adapters/starlark/... ./adapters/provider/... ./adapters/internal/... ./test/arch

fault: vm ## test/fault in full: kill -9, hostile plugins, full disk, thousands of cycles; about half an hour
	@eval "$$(test/ensure-docker.sh start)" && trap '$$ENSURE_DOCKER_STOP' EXIT && test/ensure-docker.sh image && \
	 FAULT_FULL=1 $(GO) test ./test/fault -count=1 -v -timeout 3h

vm: ## Tests in virtual machines (qemu): the clock jumps, cgroup v2 with all controllers; some five minutes
	@vars=$$(test/ensure-vm.sh) && eval "$$vars" && $(GO) test -tags vm ./test/vm -count=1 -v -timeout 1h

bench: build plugins ## Ratios to the bare protocols, also in test/bench/latest.json; ONLY=regexp runs some
	$(GO) run ./test/bench -only '$(ONLY)' -json test/bench/latest.json

lint: ## gofmt, go vet, staticcheck, govulncheck
	@bad=$$(gofmt -l cmd core adapters manifests sdk test); \
	 if [ -n "$$bad" ]; then echo "gofmt: not formatted:" $$bad; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags vm ./test/vm ./test/fault
	cd test/upstream && $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(STATICCHECK) -tags vm ./test/vm ./test/fault
	@if curl -fsS -m 10 -o /dev/null https://vuln.go.dev/index/db.json 2>/dev/null; then \
		$(GO) run $(GOVULNCHECK) ./...; \
	else echo "govulncheck: did not run: https://vuln.go.dev does not answer from here"; fi

generate: ## Write manifests/schema and core/api/openapi.json from the code
	$(GO) generate ./...
	$(GO) test ./core/api -run 'OpenAPI|EventTypes' -count=1 -update >/dev/null

check-generated: ## Fail when a generated file is not what the code says
	@before=$$(sha256sum $$(find $(GENERATED) -type f | sort)); $(MAKE) -s generate; \
	 after=$$(sha256sum $$(find $(GENERATED) -type f | sort)); \
	 if [ "$$before" != "$$after" ]; then echo "generated files were not current; make generate has written them:"; \
	   diff <(echo "$$before") <(echo "$$after"); exit 1; fi

fuzz: ## Every fuzz target on FUZZ_RUNS inputs each
	@test/fuzz.sh $(FUZZ_RUNS)

clean: ## Remove what was built and the data folder of make run
	rm -rf bin .patchbay test/bench/latest.json
