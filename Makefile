# For BSD make and GNU make.

DESTDIR ?=
PREFIX ?= /usr/local
GO ?= go
VERSION != git describe --tags --always --dirty 2>/dev/null || echo dev
# More flags for `make run` and `make bench`, e.g. ARGS="-- /bin/date"
ARGS ?=

SBIN = $(DESTDIR)$(PREFIX)/sbin
MAN8 = $(DESTDIR)$(PREFIX)/share/man/man8
RC = $(DESTDIR)$(PREFIX)/etc/rc.d
EXAMPLES = $(DESTDIR)$(PREFIX)/share/examples/onewake

.PHONY: build test stress lint bench run install uninstall clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o build/onewake .

test:
	$(GO) vet ./... && $(GO) test ./...

# Storms, long runs, figures; an hour. They may fail because the machine is
# slow or busy, and say so. docs/reliability.md has them all.
stress:
	$(GO) test -tags stress -count 1 -p 1 -timeout 90m -v ./...

lint:
	sh .ci/lint

# Needs Linux and a C compiler. E.g. ARGS="-part limit -rounds 3"
bench: build
	$(GO) build -C tools/bench -o ../../build/bench .
	build/bench $(ARGS)

run: build
	@sh tools/run.sh build/onewake $(ARGS)

# Builds what is missing or older than its sources, and nothing else: after
# `make`, `sudo make install` needs no Go for root.
SOURCES != find . -name '*.go' ! -name '*_test.go' -print -o -name 'go.mod' -print -o -name 'go.sum' -print

build/onewake: $(SOURCES)
	$(MAKE) build

install: build/onewake
	rm -f build/onewake.rc
	sed 's,%%PREFIX%%,$(PREFIX),g' rc.d/onewake >build/onewake.rc
	install -d "$(SBIN)" "$(MAN8)" "$(RC)" "$(EXAMPLES)"
	install -m 0555 build/onewake "$(SBIN)/onewake"
	install -m 0555 build/onewake.rc "$(RC)/onewake"
	install -m 0444 docs/onewake.8 "$(MAN8)/onewake.8"
	install -m 0444 docs/jail.md docs/newsyslog.conf docs/nginx.conf "$(EXAMPLES)"

uninstall:
	rm -f "$(SBIN)/onewake" "$(RC)/onewake" "$(MAN8)/onewake.8"
	rm -f "$(EXAMPLES)/jail.md" "$(EXAMPLES)/newsyslog.conf" "$(EXAMPLES)/nginx.conf"
	test ! -d "$(EXAMPLES)" || rmdir "$(EXAMPLES)"

clean:
	rm -rf build
