# `make example` and `make test` are all that a new checkout needs; both
# install what is missing. See README.md.

GO          := go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
STACK       := $(CURDIR)/bin/stack
SHOP        := examples/shop/compose.yaml
SHOP_PORT   ?= 8080

# Paths in binaries would make every checkout compile everything anew. Where git
# does not answer (another user's checkout), go build must not ask it.
export GOFLAGS := $(GOFLAGS) -trimpath $(shell git status >/dev/null 2>&1 || echo -buildvcs=false)
export CGO_ENABLED = 0
export SHOP_PORT
# A toolchain that `make setup` had to fetch is found before the system's.
export PATH := $(CURDIR)/.toolchain/bin:$(PATH)

.PHONY: build setup images example test lint unit fuzz e2e conformance faults kill-matrix walk corruption scarcity systemd powercut race peers peer compat compose-suite vm bench clean

## build: bin/stack, one static binary that carries its builder
build: setup
	$(GO) build -ldflags '-s -w' -o bin/.builder/stack-builder ./cmd/stack-builder
	$(GO) run ./cmd/stack/internal/builder/pack bin/.builder/stack-builder cmd/stack/internal/builder/program
	$(GO) build -ldflags '-s -w' -o $(STACK) ./cmd/stack

## setup: install what building and the images need, where it is missing
setup:
	@.ci/setup

## images: make the images that the example is built from and runs, and import them
images: build
	$(GO) run ./examples/mkimages -stack $(STACK)

## example: run examples/shop and fetch its page
example: images
	$(STACK) -f $(SHOP) up --detach --wait --build
	@curl --silent --show-error --fail --retry 5 --retry-connrefused http://127.0.0.1:$(SHOP_PORT)/
	@echo "The shop runs on port $(SHOP_PORT). To end it: $(STACK) -f $(SHOP) down"

## test: everything that CI checks
test: lint unit e2e

## lint: format, vet, staticcheck
lint: setup
	@unformatted=$$(gofmt -l cmd compose engine netns volumes healthcheck examples e2e); \
	if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi
	@# The example is a module of its own.
	for dir in . examples/shop; do (cd $$dir && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...) || exit 1; done

## unit: the tests beside the code
unit: setup
	$(GO) test $$($(GO) list ./... | grep -v '/e2e')

# How long each fuzz target runs, and which ones do: FUZZ="FuzzLoad FuzzUnpack".
FUZZTIME ?= 10m

## fuzz: each fuzz target for FUZZTIME, one after the other; needs root
fuzz: setup
	@# An input that finds something new is made smaller with a few tries: by default
	@# this takes a minute for each, and nearly all of the time.
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z]*' cmd compose engine netns volumes healthcheck internal | \
	sed 's|/[^/]*:func | |' | sort | while read -r dir target; do \
		case " $(or $(FUZZ),$$target) " in *" $$target "*) ;; *) continue ;; esac; \
		echo "./$$dir $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "./$$dir" </dev/null || exit 1; \
	done

## e2e: the whole program, in namespaces of its own; needs root
e2e: setup
	@# The program under test is not an import, so go cannot know a result to be old.
	$(GO) test -count=1 -p 1 -timeout 30m ./e2e/...

## conformance: write compose/CONFORMANCE.md anew from what all tests see
conformance: setup
	STACK_WRITE_CONFORMANCE=1 $(GO) test -count=1 -p 1 -timeout 30m ./compose/load ./e2e ./e2e/conformance

## peers: build the Docker of today that others are compared with; STACK_PEERS names a directory with ready programs
peers: setup
	@.ci/setup peers
	$(GO) run ./e2e/peer/fetch

## peer: exchange images with Docker, podman, skopeo and buildah; compare builds and confinement
peer: peers
	@.ci/setup peer
	$(GO) test -count=1 -p 1 ./e2e/interop ./e2e/dockerfiles ./e2e/security -peer

## compat: compare config and flags with docker compose's; COMPAT="-seed 1000 -projects 5000" draws other projects
compat: setup
	$(GO) test -count=1 -v -timeout 4h ./e2e/compat -peer $(COMPAT)

## compose-suite: run docker compose's own tests on Docker and on stack. SUITE="-only stack" runs one side
compose-suite: build
	@.ci/setup peers
	$(GO) run ./e2e/composesuite -stack $(STACK) -write e2e/composesuite/RESULTS.md $(SUITE)

## faults: kill each command that changes the image store at fifty random moments
faults: setup
	$(GO) test -count=1 -timeout 60m -v -run TestFaults ./e2e -kills 50

# What the long tests of faults draw at random comes from SEED; they print it.
FAULTS := $(GO) test -count=1 -v -timeout 4h ./e2e/faults $(if $(SEED),-seed $(SEED)) -run

## kill-matrix: kill any of stack's processes in any verb, at 400 moments and 100 steps
kill-matrix: setup
	$(FAULTS) TestKillMatrix -postgres -points 0 -aimed 0
	$(FAULTS) TestKillMatrix -postgres -points 400 -aimed 100

## walk: several clients give random commands for half an hour, compared with a model
walk: setup
	$(FAULTS) TestRandomWalk -walk 30m -clients 4

## corruption: damage each kind of record in each way
corruption: setup
	$(FAULTS) TestCorruption -damages 0

## scarcity: give commands without disk, inodes, descriptors, processes, memory
scarcity: setup
	$(FAULTS) TestScarcity -all

## systemd: a real one as process 1 stops units and ends sessions that started a project
systemd: setup
	$(FAULTS) TestSystemd -all

## powercut: take the power from a virtual machine thirty times, at up, down, build and pull
powercut: build
	$(GO) test -count=1 -v -timeout 4h ./e2e/vm -run TestPowerCuts -cuts 30 $(if $(SEED),-seed $(SEED))

# Building for the race detector takes minutes, so it is done once.
RACE := STACK_E2E_RACE=1 STACK_E2E_BINARY=$(CURDIR)/bin/race/stack $(GO) test -count=1 -timeout 60m

## race: unit tests, and those of lifecycle, health and kills, with a race detector; needs gcc
race: setup
	CGO_ENABLED=1 $(GO) test -race -timeout 30m $$($(GO) list ./compose/... ./engine/... ./netns/... ./volumes/... ./healthcheck/... | grep -v engine/build)
	CGO_ENABLED=1 $(GO) build -race -o bin/race/ ./cmd/stack ./cmd/stack-builder
	$(RACE) ./e2e -run \
		'Lifecycle|Restart|Dependencies|Resume|Health|Waits|Wishes|Kill|Keepers|Nobody|AtOnce|DownEnds|Recreate|Verbs|Nothing|DNS'
	$(RACE) ./e2e/faults -run 'Matrix|Walk' -slow 4 -points 20 -walk 60s

## vm: run on Debian's kernel with cgroup v2 in a virtual machine, and cut its power
vm: setup
	$(GO) test -count=1 -v ./e2e/vm -vm

## bench: compare with Docker; prints medians and ratios. BENCH="-n 3 -ups 1" measures less often
bench: build
	@.ci/setup peers
	$(GO) run ./e2e/bench -stack $(STACK) $(BENCH)

clean:
	rm -rf bin .toolchain
