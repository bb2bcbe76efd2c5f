# Every target sets up what it needs; `make setup` alone says what that is.
.DEFAULT_GOAL := help
.PHONY: attack soak test-upgrade help setup setup-vm setup-bench build check fix test test-vm test-engines test-fresh demo bench install docker-plugin clean

# What is built is looked for below target/, what cargo installs is found, and what programs print
# is read.
export CARGO_TARGET_DIR := $(CURDIR)/target
unexport CARGO_BUILD_TARGET
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export LC_ALL := C.UTF-8
BIN := $(CARGO_TARGET_DIR)/debug
# name of the Debian package : a file of it : why it is needed
PACKAGES := \
	iproute2:/usr/sbin/ip:tests-look-at-the-kernel-from-outside \
	nftables:/usr/sbin/nft:tests-look-at-the-rules-from-outside \
	curl:/usr/bin/curl:tasks-of-the-tour-call-services-with-it \
	dnsutils:/usr/bin/dig:tests-ask-the-resolver-with-it \
	iptables:/usr/sbin/iptables:tests-drop-what-passes-a-host-as-firewalls-do \
	ufw:/usr/sbin/ufw:is-reloaded-while-connections-last \
	firewalld:/usr/sbin/firewalld:as-ufw \
	docker.io:/usr/sbin/dockerd:networks-are-tested-beside-it \
	containernetworking-plugins:/usr/lib/cni/bridge:tests-run-our-CNI-plugin-with-and-under-these \
	podman:/usr/bin/podman:tests-have-it-call-the-CNI-plugin \
	containerd:/usr/bin/containerd:as-podman \
	runc:/usr/sbin/runc:as-podman \
	golang-go:/usr/bin/go:builds-a-caller-by-the-library-of-the-CNI-project \
	golang-github-appc-cni-dev:/usr/share/gocode/src/github.com/containernetworking/cni:is-that-library \
	docker-compose:/usr/bin/docker-compose:brings-up-networks-of-its-files \
	procps:/usr/bin/ps:tests-look-for-processes-left-behind \
	python3:/usr/bin/python3:tasks-of-tests-hold-connections-with-it \
	nginx-light:/usr/sbin/nginx:a-stack-of-tests-is-made-of-it \
	redis-server:/usr/bin/redis-server:as-nginx \
	postgresql:/usr/bin/pg_ctlcluster:as-nginx \
	python3-psycopg2:/usr/lib/python3/dist-packages/psycopg2/__init__.py:as-nginx \
	conntrack:/usr/sbin/conntrack:tests-look-for-connections-that-should-not-be \
	busybox-static:/usr/bin/busybox:asks-the-resolver-by-itself \
	musl-tools:/usr/bin/musl-gcc:its-C-library-asks-the-resolver \
	python3-pycares:/usr/lib/python3/dist-packages/pycares/__init__.py:c-ares-asks-the-resolver \
	systemd:/usr/bin/systemd-socket-activate:checks-the-unit-files-and-hands-a-socket-over \
	debootstrap:/usr/sbin/debootstrap:makes-Debians-with-other-Docker-Engines \
	gcc:/usr/bin/gcc:builds-the-cryptography-and-links \
	libc6-dev:/usr/include/stdlib.h:is-linked-with \
	ca-certificates:/etc/ssl/certs/ca-certificates.crt:cargo-trusts-its-registry-by-them
VM_PACKAGES := \
	qemu-system-x86:/usr/bin/qemu-system-x86_64:runs-the-virtual-machine-of-test-vm \
	ipvsadm:/usr/sbin/ipvsadm:shows-what-IPVS-has \
	busybox-static:/usr/share/doc/busybox-static/copyright:starts-that-machine \
	kmod:/sbin/modprobe:loads-the-modules-of-its-kernel

BENCH_PACKAGES := \
	dnsperf:/usr/bin/dnsperf:asks-servers-of-names \
	unbound:/usr/sbin/unbound:is-compared-with-our-resolver \
	dnsmasq-base:/usr/sbin/dnsmasq:as-unbound \
	aardvark-dns:/usr/lib/podman/aardvark-dns:as-unbound \
	etcd-server:/usr/bin/etcd:is-compared-with-our-control-plane

# installs what is missing of a list of packages; none of their services is started, and firewalld's
# not at the next boot either
define install
	@missing=; for entry in $(1); do IFS=: read -r name file why <<< "$$entry"; \
	  [ -e "$$file" ] || { echo "setup: installing $$name ($$why)"; missing="$$missing $$name"; }; done; \
	if [ -n "$$missing" ]; then \
	  policy=/usr/sbin/policy-rc.d; \
	  [ -e $$policy ] || { trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null || exit 1; \
	  case "$$missing " in *" firewalld "*) systemctl disable firewalld >/dev/null 2>&1 || :;; esac; \
	fi
endef

# builds for use; the plugins without any library, because runtimes start them wherever and often
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
define release
	cargo build --release --workspace --bins
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --target $(HOST) -p cni-plugin
	install -m 755 -t target/release target/$(HOST)/release/netd-cni target/$(HOST)/release/netd-netavark
endef

help: ## lists the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## installs what build, tests and demo need (Debian packages, cargo-nextest), saying what and why
	@[ "$$(id -u)" = 0 ] || { echo "make: labs and tests make network namespaces: run as root"; exit 1; }
	$(call install,$(PACKAGES))
	@command -v cargo >/dev/null || { echo "make: there is no cargo in PATH: install a Rust toolchain (https://rustup.rs)"; exit 1; }
	@cargo nextest --version >/dev/null 2>&1 || { echo "setup: installing cargo-nextest (runs the tests side by side)"; cargo install --locked cargo-nextest; }

setup-vm: setup ## installs what the virtual machine of test-vm needs (Debian packages), saying what and why
	$(call install,$(VM_PACKAGES))

setup-bench: ## installs what ours is compared with by bench (Debian packages), saying what and why
	$(call install,$(BENCH_PACKAGES))

build: setup ## builds every binary
	cargo fetch --locked
	cargo build --workspace --bins

check: ## format, lints, docs; writes nothing
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items -q

fix: ## formats and applies what clippy can mend
	cargo clippy --workspace --all-targets --fix --allow-dirty
	cargo fmt --all

# The tests of Docker with the engine of another release of Debian.
WITH_ENGINE = cargo nextest run --no-fail-fast -p tests -E 'binary(/^docker/) + test(/^dotted_names/)'

test: build setup-vm ## builds, runs every test of the repository
	@trap 'exit 130' INT; failed=; \
	echo cargo nextest run --workspace --no-fail-fast; \
	cargo nextest run --workspace --no-fail-fast || failed="$$failed nextest"; \
	echo "engine: trixie"; \
	{ tests/engines/root trixie && ENGINE=trixie $(WITH_ENGINE); } || failed="$$failed engine-of-trixie"; \
	$(MAKE) test-vm || failed="$$failed test-vm"; \
	$(MAKE) test-upgrade || failed="$$failed test-upgrade"; \
	[ -z "$$failed" ] || { echo "make test: FAILED:$$failed" >&2; exit 1; }; \
	echo "make test: nothing failed"

# The netd of an earlier level. tests/previous has a line for each: a commit, which this
# repository's history has, and the newest level that it knows.
PREVIOUS := target/previous
$(PREVIOUS)/%/netd:
	@mkdir -p $(PREVIOUS)/source/$*
	git archive $* | tar -x -C $(PREVIOUS)/source/$*
	cd $(PREVIOUS)/source/$* && CARGO_TARGET_DIR=$(CURDIR)/$(PREVIOUS)/build/$* \
	  cargo build --locked -p netd --bins
	@mkdir -p $(@D) && cp $(PREVIOUS)/build/$*/debug/netd $@ && rm -rf $(PREVIOUS)/build/$*

test-upgrade: build ## upgrades labs from earlier levels, host by host, under traffic and commands
	@while read -r commit level; do \
	  if git cat-file -e $$commit 2>/dev/null; then \
	    $(MAKE) $(PREVIOUS)/$$commit/netd && echo "upgrade: from level $$level" && \
	    PREVIOUS_NETD=$(CURDIR)/$(PREVIOUS)/$$commit/netd PREVIOUS_LEVEL=$$level \
	      cargo nextest run --ignore-default-filter -p tests --test previous_upgrade </dev/null || exit 1; \
	  else \
	    echo "upgrade: SKIPPED: this copy of the repository lacks commit $$commit; \
	next: clone it with its history"; \
	  fi; \
	done <tests/previous

test-engines: build ## tests networks with the Docker Engine of Debian's sid, with those of three releases at once, and with Podman 5
	@trap 'exit 130' INT; failed=; \
	if tests/engines/root trixie; then \
	  cargo nextest run --ignore-default-filter -p tests --test engines_podman || \
	    failed="$$failed engines_podman"; \
	else \
	  echo "engines: SKIPPED: Podman 5 of Debian's trixie cannot be installed here, see above"; \
	fi; \
	if tests/engines/root sid; then \
	  echo "engine: sid"; \
	  ENGINE=sid $(WITH_ENGINE) || failed="$$failed engine-of-sid"; \
	  cargo nextest run --ignore-default-filter -p tests --test engines_mixed --test compatibility || \
	    failed="$$failed engines_mixed"; \
	else \
	  echo "engines: SKIPPED: Debian's sid cannot be installed here, see above"; \
	fi; \
	[ -z "$$failed" ] || { echo "make test-engines: FAILED:$$failed" >&2; exit 1; }

soak: build ## simulates thousands of cut ways between managers and of orders of events; makes 3,000 networks under calls; reloads firewalls
	SIMULATED_CUTS=2000 cargo nextest run -p cluster simulation
	PROPTEST_CASES=5000 cargo nextest run -p orchestrator simulation
	cargo nextest run --ignore-default-filter --no-capture -p tests --test soak_storm
	RELOADS=20 cargo nextest run -p tests --test reloads

attack: build ## attacks a lab as hosts without a certificate can, and prints what that costs its members
	cargo nextest run --ignore-default-filter --no-capture -p tests --test attack --test attack_long

test-fresh: ## runs the README's two commands in a minimal Debian where nothing was ever built
	$(call install,debootstrap:/usr/sbin/debootstrap:makes-that-Debian)
	tests/fresh

test-vm: build setup-vm ## runs tests/tests/vm_*.rs, or TESTS=NAME, on a kernel with ESP, IPVS, 802.1q, ipvlan in QEMU
	@mkdir -p target/vm
	cargo metadata --format-version 1 >target/vm/metadata.json
	cargo nextest list --workspace --test 'vm_*' --profile vm --list-type binaries-only --message-format json >target/vm/binaries.json
	tests/vm/run cargo-nextest nextest run --profile vm --cargo-metadata target/vm/metadata.json \
	  --binaries-metadata target/vm/binaries.json $(TESTS) || [ $$? = 77 ]

demo: build ## brings up three simulated hosts, runs the tour of the README, checks it, cleans up
	PATH="$(BIN):$$PATH" tests/demo.sh

bench: setup setup-bench ## runs the benchmarks of docs/benchmarks.md
	$(release)
	cargo bench -p tests --bench names
	cargo bench -p tests --bench paths
	cargo bench -p tests --bench cni
	cargo bench -p tests --bench docker
	cargo bench -p tests --bench views
	cargo bench -p tests --bench control
	cargo bench -p rules --bench balancing
	cargo bench -p dataplane --bench scale
	cargo bench -p orchestrator --bench state

install: ## builds for use and installs to /usr/local/bin, and plugins and the systemd unit where they are looked for
	$(release)
	install -D -m 755 -t $(DESTDIR)/usr/local/bin target/release/netd target/release/swarmctl
	install -D -m 755 -t $(DESTDIR)/opt/cni/bin target/release/netd-cni
	install -D -m 755 -t $(DESTDIR)/usr/local/lib/netavark target/release/netd-netavark
	install -D -m 644 -t $(DESTDIR)/etc/systemd/system packaging/netd.service packaging/netd-docker.socket

# what DOCKER_PLUGIN holds is what `docker plugin create NAME DOCKER_PLUGIN` takes
DOCKER_PLUGIN ?= target/docker-plugin
PLUGIN_NETD ?= target/release/netd

docker-plugin: ## builds the managed plugin for `docker plugin create netd target/docker-plugin`
	@[ -n "$(findstring debug,$(PLUGIN_NETD))" ] || cargo build --release -p netd
	rm -rf $(DOCKER_PLUGIN)
	install -D -s -m 755 $(PLUGIN_NETD) $(DOCKER_PLUGIN)/rootfs/netd
	install -D -m 644 packaging/docker-plugin/config.json $(DOCKER_PLUGIN)/config.json
	mkdir -p $(DOCKER_PLUGIN)/rootfs/host $(DOCKER_PLUGIN)/rootfs/run/docker/plugins
	ldd $(PLUGIN_NETD) | grep -o '/[^ ]*' | xargs -I{} install -D -m 755 {} $(DOCKER_PLUGIN)/rootfs{}

clean: ## removes what was built
	cargo clean

SHELL := /bin/bash
