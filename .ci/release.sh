#!/usr/bin/env bash
# Builds what is published into dist/, checks it, and runs the wheel as somebody who has nothing else would.
# The version is clip_core.__version__; its tag is v and the version, CHANGELOG.md's first heading names it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' clip_core/__init__.py)
heading=$(grep -m 1 '^## ' CHANGELOG.md)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $heading in
    "## $version "*) ;;
    *) echo "release: CHANGELOG.md: wanted '## $version (date)' first, found '$heading'" >&2; exit 1 ;;
esac
rm -rf dist build
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet --disable-pip-version-check build twine
"$work/tools/bin/python" -m build --outdir dist . > "$work/build.log" || { tail -20 "$work/build.log" >&2; exit 1; }
"$work/tools/bin/python" -m twine check --strict dist/*
"$python" -m venv "$work/user"
"$work/user/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
"$work/user/bin/python" -m pip install --quiet --disable-pip-version-check "$(echo dist/*.whl)[torch]"
(cd "$work" && user/bin/triclip --version && user/bin/triclip demo --output demo > /dev/null && ls demo)
ls -l dist
cat << END
release: dist/ holds triclip $version, checked. What is left:
  1. CHANGELOG.md: the date in '$heading', and an empty heading for the next version above it
  2. pyproject.toml: Source under [project.urls] is the repository's address
  3. git tag v$version && git push origin v$version
  4. $python -m twine upload dist/*
END
