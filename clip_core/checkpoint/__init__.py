"""Any CLIP checkpoint in, any out: containers x dialects x scope.

`load(path)` gives canonical names and lazy tensors, `save` and `convert` write, `inspect` tells what a file is.
No framework is needed; h5py or orbax only for the formats that are made of them.
"""

from ..errors import CheckpointError
from .convert import convert, inspect
from .loading import Checkpoint, load, of_tensors
from .saving import Saved, save
from .tensor import Tensor

__all__ = ["Checkpoint", "CheckpointError", "Saved", "Tensor", "convert", "inspect", "load", "of_tensors", "save"]
