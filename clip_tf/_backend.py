"""Refuses a Keras that can't run this package, with an explanation. Imported before anything that needs Keras."""

import os
import sys

from clip_core.errors import MissingDependencyError, require

_HELP = 'Set KERAS_BACKEND=tensorflow (or "backend" in ~/.keras/keras.json) before Keras is first imported.'


def _refuse(found: str) -> ImportError:
    return ImportError(f"clip_tf: KERAS_BACKEND: wanted 'tensorflow', found {found!r}. {_HELP}")


_named = os.environ.get("KERAS_BACKEND") or "tensorflow"
if _named != "tensorflow" and "keras" not in sys.modules:  # Keras would import the other framework, or fail to
    raise _refuse(_named)
require("clip_tf", "tf", "keras", "tensorflow")
keras = sys.modules["keras"]
if int(keras.__version__.split(".")[0]) < 3:
    raise MissingDependencyError(f"clip_tf: wanted Keras 3 or later, found {keras.__version__}")
if keras.backend.backend() != "tensorflow":
    raise _refuse(keras.backend.backend())
