#!/usr/bin/env bash
# Each backend where only it is installed, from the built wheel: its own tests and the conformance cases.
# The checkout's packages are out of reach: tests run on a copy of tests/ and conformance/ elsewhere. The embedded model's
# numbers are written in the first environment and compared with in the others.
#
#   .ci/isolated.sh [--once] [torch] [tf] [flax]
#
# --once: each environment is removed after its tests, so that only one of them takes space on the disk at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
once=
if [ "${1:-}" = --once ]; then once=1; shift; fi
backends=${*:-torch tf flax}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TF_CPP_MIN_LOG_LEVEL=2 HF_HUB_OFFLINE=1

install() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" "${@:2}"; }

cp -r tests conformance pyproject.toml "$work"
for backend in $backends; do
    env=$root/.venv-only-$backend
    if [ ! "$env/.ready" -nt constraints.txt ] || [ ! "$env/.ready" -nt pyproject.toml ]; then
        rm -rf "$env"
        "$python" -m venv "$env"
        if [ "$backend" = torch ]; then install "$env" torch; fi # first, so that a CPU build at hand is kept
        # flatbuffers: JAX writes exported programs with it
        install "$env" ".[$backend,formats,hub,train]" pytest pytest-xdist hypothesis flatbuffers
        touch "$env/.ready"
    fi
    if ! ls "$work"/*.whl > /dev/null 2>&1; then
        "$env/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" .
    fi
    install "$env" --force-reinstall --no-deps "$work"/*.whl
    cd "$work"
    others=$("$env/bin/python" - "$backend" << 'END'
import importlib.util, sys
names = {"torch": "torch", "tf": "tensorflow", "flax": "jax"}
print(*(name for key, name in names.items() if key != sys.argv[1] and importlib.util.find_spec(name)))
END
    )
    if [ -n "$others" ]; then echo "isolated: $backend's environment also has $others" >&2; exit 1; fi
    echo "isolated: $backend"
    "$env/bin/python" -m pytest -n 2 --dist worksteal "tests/$backend" "tests/triclip/$backend" conformance
    if [ ! -e reference.npz ]; then
        "$env/bin/triclip" conform emoji --backends "$backend" --save reference.npz
    else
        "$env/bin/triclip" conform emoji --backends "$backend" --reference reference.npz
    fi
    cd "$root"
    if [ -n "$once" ]; then rm -rf "$env"; fi
done
