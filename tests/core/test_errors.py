"""A backend without its framework names the extra that has it."""

import subprocess
import sys

import pytest

WITHOUT = """
import sys
sys.modules[{missing!r}] = None
try:
    import {package}
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("package", "missing", "extra"),
    [("clip_torch", "torch", "torch"), ("clip_tf", "keras", "tf"), ("clip_flax", "jax", "flax")],
)
def test_a_missing_framework_names_its_extra(package, missing, extra):
    code = WITHOUT.format(package=package, missing=missing)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    wanted = (
        f"MissingDependencyError {package} needs {missing}, which is not installed: pip install 'triclip[{extra}]'\n"
    )
    assert done.stdout == wanted
