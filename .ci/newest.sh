#!/usr/bin/env bash
# The tests with the newest versions that pyproject.toml allows: see versions.sh, whose other arguments this takes.
exec bash "$(dirname "$0")/versions.sh" newest "$@"
