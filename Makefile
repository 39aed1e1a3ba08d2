# The checks and the builds of Berth. `make` lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# Nothing is built with another toolchain than the one that is installed, or with C, except for the race detector.
export GOTOOLCHAIN := local
export GOWORK      := off
export CGO_ENABLED := 0
export GOFLAGS     += -buildvcs=false

BIN       := .cache/bin
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILT     ?= $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS   := -s -w -X main.version=$(VERSION) -X main.built=$(BUILT)
PLATFORMS := linux/amd64 linux/arm64 linux/arm/7
FUZZTIME  ?= 10s
CLIENTS   := $(addprefix $(BIN)/,conformance crane oras pebble pebble-challtestsrv)
LINT      := $(BIN)/staticcheck
PEER      := $(BIN)/distribution
BUILDERS  := $(addprefix $(BIN)/,buildx buildkitd dockerd containerd containerd-shim-runc-v2)
LARGE     := $(addprefix $(BIN)/,helm regctl cosign)
COMPOSE   := $(BIN)/docker-compose
S3        := $(addprefix $(BIN)/,minio versitygw)
# Large programs whose speed nobody needs are compiled without optimizing them: in half of the time.
QUICK     := -trimpath -ldflags '-s -w' -gcflags 'all=-N -l -dwarf=false'

.PHONY: help
help: ## List what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the registry into dist/
	go build -trimpath -ldflags '$(LDFLAGS)' -o dist/ ./cmd/registry

.PHONY: image
image: ## Build the image of the registry (docker with BuildKit)
	DOCKER_BUILDKIT=1 docker build --build-arg VERSION=$(VERSION) --build-arg BUILT=$(BUILT) --tag berth .

# The programs that later parts need are built beside the earlier ones, which leave a processor idle now and then.
.PHONY: test
test: requirements ## Check, build and test everything
	mkdir -p .cache
	$(MAKE) $(S3) >.cache/s3.log 2>&1 & s3=$$!; \
	$(MAKE) $(PEER) $(BUILDERS) $(LARGE) $(COMPOSE) >.cache/tools.log 2>&1 & tools=$$!; \
	trap 'kill $$s3 $$tools 2>/dev/null || true' EXIT; \
	$(MAKE) check cross; \
	wait $$s3 || { cat .cache/s3.log; exit 1; }; \
	$(MAKE) unit; \
	wait $$tools || { cat .cache/tools.log; exit 1; }; \
	$(MAKE) conformance

.PHONY: requirements
requirements: ## Install what the tests need and Go does not bring (Debian, as root)
	@tools/install-debian.sh gcc libc6-dev buildah busybox-static curl dash openssl shellcheck wget \
		containerd docker.io haproxy iproute2 iptables nginx-light podman postgresql qemu-user-static rclone runc skopeo systemd util-linux

.PHONY: check
check: $(LINT) ## Check the format and what can be seen without running
	@unformatted=$$(find . -name .cache -prune -o -name '*.go' -print | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(LINT) ./...

.PHONY: cross
cross: $(PLATFORMS:%=cross/%) ## Compile for every platform, tests too

.PHONY: $(PLATFORMS:%=cross/%)
$(PLATFORMS:%=cross/%): cross/%:
	GOOS=$(word 1,$(subst /, ,$*)) GOARCH=$(word 2,$(subst /, ,$*)) GOARM=$(word 3,$(subst /, ,$*)) go vet ./...
	GOOS=$(word 1,$(subst /, ,$*)) GOARCH=$(word 2,$(subst /, ,$*)) GOARM=$(word 3,$(subst /, ,$*)) go build ./...

.PHONY: unit
unit: $(S3) ## Test the packages with the race detector, the seeds of the fuzz tests included
	if [ -n "$${CI:-}" ] || tools/has-c.sh; then race=-race; export CGO_ENABLED=1; \
	else race=; echo "without the race detector: there is no C compiler"; fi; \
	go test -timeout 20m $$race $$(go list ./... | grep -Ev '^berth/conformance(/clients)?$$')
	go test -count=1 -run '^TestScale$$' ./storage/metadata # which would take minutes with the race detector
	CGO_ENABLED=0 go test -C tools/kubernetes -count=1 . # a file outside its module is not noticed otherwise

.PHONY: conformance
conformance: $(CLIENTS) $(PEER) $(BUILDERS) $(LARGE) $(COMPOSE) $(S3) ## Test the program from outside: official suite, clients, kill -9, full disks
	BERTH_TOOLS=$(CURDIR)/$(BIN) go test -v -count=1 -timeout 30m -p 1 ./conformance ./conformance/clients

.PHONY: conformance-table
conformance-table: $(CLIENTS) ## Write docs/conformance.md
	mkdir -p docs
	CONFORMANCE_TABLE=$(CURDIR)/docs/conformance.md BERTH_TOOLS=$(CURDIR)/$(BIN) \
		go test -count=1 -run '^TestOfficialSuite$$' ./conformance

.PHONY: configuration-table
configuration-table: ## Write docs/configuration.md
	CONFIGURATION_TABLE=$(CURDIR)/docs/configuration.md go test -count=1 -run '^TestReference$$' ./config

.PHONY: clients-table
clients-table: $(CLIENTS) $(BUILDERS) $(LARGE) ## Write docs/clients.md
	CLIENTS_TABLE=$(CURDIR)/docs/clients.md BERTH_TOOLS=$(CURDIR)/$(BIN) \
		go test -count=1 -run '^TestClients$$' ./conformance/clients

.PHONY: scale
scale: build ## Test the metadata with a million manifests, in SQLite and in PostgreSQL, and start the registry on them
	BERTH_SCALE=1000000 BERTH_SCALE_PROGRAM=$(CURDIR)/dist/registry go test -v -count=1 -timeout 1h -run '^TestScale$$' ./storage/metadata

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME (10s)
	for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$package; \
		done; \
	done

.PHONY: bench
bench: build $(PEER) ## Measure the registry against another one, over TLS
	go run ./conformance/bench -start berth=dist/registry,REGISTRY_AUTH=none -start distribution=$(PEER)

.PHONY: bench-gate
bench-gate: build ## Measure what passwords, rules and tokens cost
	go run ./conformance/bench -gate dist/registry

.PHONY: bench-s3
bench-s3: build $(PEER) $(S3) ## Measure the registry on S3 against another one
	go run ./conformance/bench -s3 dist/registry -rounds 5 -tools $(BIN)

.PHONY: bench-collect
bench-collect: build ## Measure pulls while 100,000 blobs are collected
	go run ./conformance/bench -collect dist/registry -rounds 8

.PHONY: cover
cover: ## Report how much the packages' own tests cover
	mkdir -p .cache
	go test -coverprofile .cache/cover $$(go list ./... | grep -v /conformance)
	go tool cover -func .cache/cover | tail -n 1

.PHONY: tools
tools: $(CLIENTS) $(LINT) $(PEER) $(BUILDERS) $(LARGE) $(COMPOSE) $(S3) ## Build the pinned programs that the checks run

$(CLIENTS) $(LINT) &: tools/go.mod tools/go.sum
	go build -C tools -trimpath -o $(CURDIR)/$(BIN)/ tool
	touch $(CLIENTS) $(LINT)

$(PEER): tools/peers/go.mod tools/peers/go.sum
	go build -C tools/peers -trimpath -o $(CURDIR)/$(PEER) github.com/distribution/distribution/v3/cmd/registry

$(BUILDERS) &: tools/builders/go.mod tools/builders/go.sum
	go build -C tools/builders $(QUICK) -o $(CURDIR)/$(BIN)/ tool
	touch $(BUILDERS)

$(LARGE) &: tools/clients/go.mod tools/clients/go.sum
	go build -C tools/clients $(QUICK) -o $(CURDIR)/$(BIN)/ tool
	touch $(LARGE)

$(COMPOSE): tools/compose/go.mod tools/compose/go.sum
	go build -C tools/compose $(QUICK) -o $(CURDIR)/$(COMPOSE) github.com/docker/compose/v5/cmd

$(S3) &: tools/s3/go.mod tools/s3/go.sum
	go build -C tools/s3 -trimpath -ldflags '-s -w' -o $(CURDIR)/$(BIN)/ github.com/versity/versitygw/cmd/versitygw
	go build -C tools/s3 $(QUICK) -o $(CURDIR)/$(BIN)/ github.com/minio/minio
	touch $(S3)

.PHONY: clean
clean: ## Remove what was built
	rm -rf .cache dist
