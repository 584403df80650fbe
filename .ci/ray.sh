#!/usr/bin/env bash
# Bulk embedding through Ray Data, on a cluster of this machine's loopback interface, in an environment of its own: Ray is
# too large for the test environment. Only NumPy models are run, so no framework is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
env=$PWD/.venv-ray
if [ ! "$env/.ready" -nt pyproject.toml ]; then
    rm -rf "$env"
    "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
        --editable '.[ray,parquet]' pytest
    touch "$env/.ready"
fi
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
# Ray keeps its session and its token in the home and temporary folders.
HOME=$home RAY_TMPDIR=$home OMP_NUM_THREADS=1 "$env/bin/python" -m pytest tests/triclip/test_bulk_ray.py
