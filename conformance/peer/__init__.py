"""transformers 4.37.2's own CLIP tests, run against the real library and against triclip.

It has none of their code. `python -m conformance.peer tree DEST --sdist transformers-4.37.2.tar.gz --checkout FOLDER`
lays their tests out: tests/test_*.py come from the sdist on PyPI, tests/models/clip, tests/utils/test_model_output.py
and tests/fixtures, which it lacks, from a checkout of tag v4.37.2 of the repository. `... run DEST` runs them, and
`... table DEST` compares. `shim` is what `import transformers` gives on our side; `testing` stands for
transformers.testing_utils there.
"""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """One of their test files: its place, its frameworks, and its real environment."""

    title: str
    file: str
    frameworks: tuple[str, ...]
    environment: str


PARTS = {
    "tokenizer": Part("Tokenizers", "tests/models/clip/test_tokenization_clip.py", ("torch",), "torch"),
    "image": Part("Image processor", "tests/models/clip/test_image_processing_clip.py", ("torch",), "torch"),
    "processor": Part("Processor", "tests/models/clip/test_processor_clip.py", ("torch",), "torch"),
    "torch": Part("PyTorch models", "tests/models/clip/test_modeling_clip.py", ("torch",), "torch"),
    "tf": Part("TensorFlow models", "tests/models/clip/test_modeling_tf_clip.py", ("tf",), "tf"),
    "flax": Part("Flax models", "tests/models/clip/test_modeling_flax_clip.py", ("flax",), "tf"),
    "outputs": Part("Outputs", "tests/utils/test_model_output.py", ("torch",), "torch"),
}
CHECKPOINT = "openai/clip-vit-base-patch32"  # what their tests load; here a folder with the tokenizer's files
