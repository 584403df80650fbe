"""Mutated files of every container, and of tokenizer.json: a documented error or a good read, never anything else.

FUZZ_EXAMPLES sets the number of inputs for each (default 30; docs/security.md has the long runs).
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_core.checkpoint import CheckpointError, load

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 30))
LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 100,  # the suite is the same every time; long runs explore
    suppress_health_check=list(HealthCheck),
    database=None,
)
SEEDS = {
    "safetensors": "hf-text-projection/model.safetensors",
    "torch": "hf-bin/pytorch_model.bin",
    "torch-legacy": "hf-legacy/pytorch_model.bin",
    "torchscript": "openai/tiny-openai-jit.pt",
    "h5": "tf-text/tf_model.h5",
    "msgpack": "flax-text/flax_model.msgpack",
    "index": "hf-sharded/model.safetensors.index.json",
    "config": "hf-text-projection/config.json",
    "open_clip-config": "open_clip/open_clip_config.json",
}
INTERESTING = [
    b"\xff" * 8,
    b"\x00" * 8,
    b"\x7f" + b"\xff" * 7,
    b"-1",
    b"1e999",
    b"NaN",
    b"../",
    b"os\nsystem\n",
    b"R",
    b"{",
]
edits = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "delete", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.booleans(),  # near the start, where headers are
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(INTERESTING)),
    ),
    min_size=1,
    max_size=6,
)


def mutate(data, steps):
    data = bytearray(data)
    for kind, where, early, value in steps:
        at = int(where * min(len(data), 4096 if early else len(data)))
        if kind == "overwrite":
            data[at : at + len(value)] = value
        elif kind == "insert":
            data[at:at] = value
        elif kind == "delete":
            del data[at : at + len(value)]
        else:
            data[at:at] = data[at : at + 64 * len(value)]
    return bytes(data)


@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_checkpoint(kind, tmp_path):
    source = GOLDEN / SEEDS[kind]
    shutil.copytree(source.parent, tmp_path / "x")
    target = tmp_path / "x" / source.name
    path = target if kind == "torchscript" else target.parent
    seed = source.read_bytes()

    @LIMITS
    @given(edits)
    def run(steps):
        target.write_bytes(mutate(seed, steps))
        try:
            for tensor in load(path).tensors.values():
                tensor.numpy()
        except (CheckpointError, FileNotFoundError):
            pass

    run()


def test_mutated_tokenizer_json(tmp_path):
    from clip_core.text.tokenizer import CLIPTokenizerFast

    letters = [chr(c) for c in range(33, 127)]
    vocab = {t: i for i, t in enumerate([*letters, *(c + "</w>" for c in letters), "ab", "ab</w>"])}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na b</w>\n")
    CLIPTokenizerFast(tmp_path / "vocab.json", tmp_path / "merges.txt").save_pretrained(tmp_path)
    seed = (tmp_path / "tokenizer.json").read_bytes()
    assert CLIPTokenizerFast.from_pretrained(tmp_path)("ab").input_ids

    @LIMITS
    @given(edits)
    def run(steps):
        (tmp_path / "tokenizer.json").write_bytes(mutate(seed, steps))
        try:
            CLIPTokenizerFast.from_pretrained(tmp_path)("ab c")
        except (ValueError, FileNotFoundError):
            pass

    run()
