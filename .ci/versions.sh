#!/usr/bin/env bash
# The tests in environments of their own, with the lowest or the newest versions that pyproject.toml allows.
# The checkout's packages are out of reach: tests run on a copy of tests/ and conformance/, the wheel is installed.
#
#   .ci/versions.sh lowest|newest [core] [flax] [tf] [torch]
#
# core: the core and the tools, which run with constraints.txt's PyTorch. torch: its own lowest or newest; left out unless
# it is named, since on Linux that may be a CUDA build of 9 GB. PYTHON: the interpreter, python3 unless told.
# `.ci/lowest.sh` and `.ci/newest.sh` call this.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
# lowest-direct: what pyproject.toml names is the lowest it allows, what those ask for is the newest they allow
case ${1:-} in
    lowest) resolution=lowest-direct ;;
    newest) resolution=highest ;;
    *) echo "versions.sh: wanted 'lowest' or 'newest' first, found '${1:-}'" >&2; exit 2 ;;
esac
kind=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TF_CPP_MIN_LOG_LEVEL=2 HF_HUB_OFFLINE=1

extras() {
    case $1 in
        core) echo formats hub text tokenizers jpeg parquet viz search serve train ;;
        torch | tf | flax) echo "$1" formats hub train ;;
        *) echo "versions.sh: wanted core, torch, tf or flax, found '$1'" >&2; return 2 ;;
    esac
}
programs() { if [ -d "$1/Scripts" ]; then echo "$1/Scripts"; else echo "$1/bin"; fi; } # Windows has Scripts

"$python" -m venv "$work/tools"
tools=$(programs "$work/tools")
"$tools/python" -m pip install --quiet --disable-pip-version-check uv
"$tools/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" .
cp -r tests conformance pyproject.toml "$work"
for name in ${*:-core flax tf}; do
    env=$work/$name
    asked=(); for extra in $(extras "$name"); do asked+=("--extra=$extra"); done
    tested="tests/$name tests/triclip/$name conformance"
    "$python" -m venv "$env"
    here=$(programs "$env")
    if [ "$name" = core ]; then
        tested="tests/core tests/triclip --ignore=tests/triclip/tf --ignore=tests/triclip/flax"
        "$here/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
    fi
    "$tools/uv" pip compile --quiet --no-header --no-annotate --resolution "$resolution" --python "$here/python" \
        "${asked[@]}" pyproject.toml > "$work/$name.txt"
    # tensorstore: the core's tests read orbax's folders with it; flatbuffers: JAX writes exported programs with it
    "$tools/uv" pip install --quiet --python "$here/python" --requirement "$work/$name.txt" \
        pytest pytest-xdist hypothesis httpx2 tensorstore flatbuffers "$work"/triclip-*.whl
    echo "$kind, $name, $("$here/python" --version): $(grep -E \
        '^(numpy|pillow|regex|torch|jax|flax|tensorflow|keras|h5py|msgpack|pyarrow|matplotlib)==' "$work/$name.txt" | tr '\n' ' ')"
    (cd "$work" && "$here/python" -m pytest -n 2 --dist worksteal $tested)
    rm -rf "$env"
done
