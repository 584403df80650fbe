"""What a program writes with the tools; read by type checkers, never run."""

from typing import assert_type

import numpy as np

from clip_core import checkpoint
from triclip import Clip, Index, open_index

clip = Clip.from_pretrained("emoji", backend="torch", dtype="float32")
assert_type(clip, Clip)
images = clip.encode_image(["a.jpg", "b.jpg"])
texts = clip.encode_text(["a cat", "a dog"])
rows: np.ndarray = images
cosines = images @ texts.T
result = clip.classify("photos/", ["a cat", "a dog"])
label, probability = result[0][0]
assert_type(label, str)
assert_type(probability, float)
checkpoint.convert("source", "target", to="openai")
index = open_index("photos.npz")
assert_type(index, Index)
