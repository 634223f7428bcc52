# As root on Debian 12; everything that is missing is installed by scripts/install.

.DEFAULT_GOAL := help
PYTEST := .venv/bin/python -B -m pytest -p no:cacheprovider

.PHONY: help
help:
	@echo "make run     mount ./var/archive at ./mnt; Ctrl-C unmounts"
	@echo "make test    everything: checks, then all tests with real mounts"
	@echo "make check   the quick part: format, lint, types, layers, unit tests"
	@echo "make soak    the tests that search at random, for longer"
	@echo "make bench   speed beside other file systems"
	@echo "make deb     the Debian package, in ./dist"
	@echo "make clean   remove what was built (not ./var and not ./mnt)"

# exec: signals reach the daemon itself.
.PHONY: run
run:
	@scripts/install run
	@exec .venv/bin/wormfs mount --embedded

.PHONY: test
test:
	@scripts/install test
	@scripts/check
	@scripts/suite

# All at once: what waits for disks and timers leaves the processor to the others.
.PHONY: check
check:
	@scripts/install test
	@$(MAKE) --no-print-directory --jobs=3 --output-sync judged units-that-wait other-units

WAITING := tests/unit/daemon tests/unit/spool

.PHONY: judged units-that-wait other-units
judged:
	@scripts/check
units-that-wait:
	$(PYTEST) --quiet $(WAITING)
other-units:
	$(PYTEST) --quiet tests/unit tests/architecture $(WAITING:%=--ignore=%)

.PHONY: soak
soak:
	@scripts/install test
	WORMFS_SOAK=1 scripts/suite --timeout 7200 -o faulthandler_timeout=7000

.PHONY: bench
bench:
	@scripts/install test
	.venv/bin/python -B benchmarks/run.py

.PHONY: deb
deb:
	@scripts/install deb
	@package=$$(scripts/deb dist) && echo "$$package" \
	    && lintian --allow-root --fail-on error,warning --display-level '>=warning' "$$package"

.PHONY: clean
clean:
	rm -rf .venv build dist wormfs.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find wormfs tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
