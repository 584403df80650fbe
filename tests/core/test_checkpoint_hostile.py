"""Hostile and damaged files: a documented error, nothing executed, nothing outside the folder, bounded memory.

The corpus is made by hostile/corpus.py and judged in one watched process by hostile/judge.py.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clip_core.checkpoint import CheckpointError, load

HERE = Path(__file__).parent / "hostile"
GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
MEMORY = 80e6  # bytes that a refused file may cost, beside a few times its own size: the bound on pickle operations
SECONDS = 60  # no hang; the slowest takes one or two
CUTS = 50

_spec = importlib.util.spec_from_file_location("hostile_corpus", HERE / "corpus.py")
corpus = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(corpus)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    command = [sys.executable, HERE / "judge.py", tmp_path_factory.mktemp("hostile")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 0, (rows[-1:], result.stderr[-2000:])
    return {row["name"]: row for row in rows if "name" in row}


def test_the_corpus_is_large():
    assert len(corpus.CASES) >= 200


@pytest.mark.parametrize("name", corpus.CASES)
def test_hostile_file(name, verdicts):
    verdict = verdicts[name]
    assert verdict["outcome"] in ("CheckpointError", "FileNotFoundError"), verdict
    assert re.search(verdict["says"], verdict["text"]), verdict["text"]
    assert verdict["events"] == [], "it opened something outside its folder, or started something"
    assert verdict["new"] == [], "it left something behind"
    assert verdict["peak"] < MEMORY + 6 * verdict["size"]
    assert verdict["seconds"] < SECONDS


FILES = {
    "safetensors": "hf-vision/model.safetensors",
    "torch": "hf-bin/pytorch_model.bin",
    "torch legacy": "hf-legacy/pytorch_model.bin",
    "torchscript": "openai/tiny-openai-jit.pt",
    "tf": "tf-text/tf_model.h5",
    "keras": "kerashub/model.weights.h5",
    "msgpack": "flax-text/flax_model.msgpack",
    "shard": "hf-sharded/model-00002-of-00004.safetensors",
    "index": "hf-sharded/model.safetensors.index.json",
    "config": "hf-vision/config.json",
}


def read_all(path):
    for tensor in load(path).tensors.values():
        tensor.numpy()


@pytest.mark.parametrize("kind", FILES)
def test_truncated_at_every_fiftieth(kind, tmp_path):
    source = GOLDEN / FILES[kind]
    shutil.copytree(source.parent, tmp_path / "x")
    target = tmp_path / "x" / source.name
    path = target if kind == "torchscript" else target.parent
    data = source.read_bytes().rstrip(b"\n")
    for cut in range(CUTS):
        target.write_bytes(data[: len(data) * cut // CUTS])
        with pytest.raises((CheckpointError, FileNotFoundError), match="x"):
            read_all(path)


def test_orbax_with_cut_files(tmp_path):
    pytest.importorskip("tensorstore", reason="orbax checkpoints need tensorstore")
    originals = [p for p in (GOLDEN / "orbax").rglob("*") if p.is_file() and p.stat().st_size > 1000]
    refused = 0
    for number, original in enumerate(originals):
        folder = tmp_path / str(number)
        shutil.copytree(GOLDEN / "orbax", folder)
        target = folder / original.relative_to(GOLDEN / "orbax")
        target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
        try:
            read_all(folder)
        except CheckpointError:
            refused += 1
    assert refused >= 2  # the array data and its metadata; per-process copies aren't read


def test_a_file_that_shrinks_while_it_is_open(tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(GOLDEN / "hf" / "model.safetensors", path)
    read = load(path, config={})
    with open(path, "r+b") as file:
        file.truncate(20_000)
    with pytest.raises(CheckpointError, match="changed while being read"):
        for tensor in read.tensors.values():
            tensor.numpy()


def test_hub_cache_links_are_followed(tmp_path):
    """huggingface_hub keeps snapshots as links to ../../blobs; other links out of the folder are refused."""
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted((GOLDEN / "hf-sharded").iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    assert len(load(snapshot).tensors) == 78


def test_nothing_is_imported_or_executed_for_a_pickle_with_inert_names(tmp_path):
    """Stable Diffusion's training left callbacks in its files: by name, never called, so they do no harm."""
    name = "text_model.embeddings.token_embedding.weight"
    data = corpus.tensor_pickle()[:-1] + b"X\x01\x00\x00\x00cc"
    data += b"pytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\ns."
    path = corpus.zipped(tmp_path, data, [("archive/data/0", np.ones(4, "<f4").tobytes())])
    from clip_core.checkpoint import torch_file

    tensors, _ = torch_file.read(path)
    assert np.array_equal(tensors[name].numpy(), np.ones(4))
