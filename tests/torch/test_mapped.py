"""mmap=True: weights stay mapped in their file, with the same values, and writes are private."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip_core.checkpoint import load
from clip_core.checkpoint.source import FileSource
from clip_core.errors import CheckpointError
from clip_torch import CLIPConfig, CLIPModel

NAME = "text_model.embeddings.token_embedding.weight"
TINY = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def folder(tmp_path):
    config = CLIPConfig(
        text_config={**TINY, "vocab_size": 99, "eos_token_id": 98, "bos_token_id": 97},
        vision_config={**TINY, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_same_numbers_and_writes_stay_in_memory(folder):
    file = folder / "model.safetensors"
    before = file.read_bytes()
    model = CLIPModel.from_pretrained(folder, mmap=True)
    table = model.get_parameter(NAME)
    want = torch.from_numpy(load(folder).tensors[NAME].numpy())
    assert torch.equal(table.detach(), want)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.tensor([[97, 5, 98]])
    model(input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16)).text_embeds.sum().backward()
    optimizer.step()
    assert not torch.equal(table.detach(), want)
    assert file.read_bytes() == before
    assert torch.equal(CLIPModel.from_pretrained(folder).get_parameter(NAME).detach(), want)


def test_saving_over_its_own_file(folder):
    model = CLIPModel.from_pretrained(folder, mmap=True)
    with torch.no_grad():
        model.get_parameter(NAME).mul_(2)
    want = model.get_parameter(NAME).detach().clone()
    model.save_pretrained(folder)
    assert torch.equal(model.get_parameter(NAME).detach(), want)
    assert torch.equal(CLIPModel.from_pretrained(folder).get_parameter(NAME).detach(), want)


def mapping_of(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj


def test_one_mapping_of_the_file_but_no_bytes_in_common(folder):
    tensors = load(folder).tensors
    first, again = tensors[NAME].map(), tensors[NAME].map()
    others = {name: tensor.map() for name, tensor in tensors.items() if tensor.map and name != NAME}
    assert len(others) > 30
    assert len({id(mapping_of(array)) for array in (again, *others.values())}) == 1
    assert mapping_of(first) is not mapping_of(again)
    want = {name: tensor.numpy() for name, tensor in tensors.items()}
    first[:] = 1
    again[0] = 2
    np.testing.assert_array_equal(again[1:], want[NAME][1:])
    for name, array in others.items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)
        assert array.flags.writeable


def test_another_dtype_is_converted_in_memory(folder):
    half = CLIPModel.from_pretrained(folder, dtype="float16", mmap=True).get_parameter(NAME)
    full = CLIPModel.from_pretrained(folder).get_parameter(NAME)
    assert torch.equal(half.detach(), full.detach().half())


def test_a_file_that_became_shorter_is_refused(folder):
    tensor = load(folder).tensors[NAME]
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(200)
    with pytest.raises(CheckpointError, match="shorter"):
        tensor.map()


@pytest.mark.parametrize("second", [(0, 100), (40, 100), (80, 20), (60, 1), (0, 41), (99, 1)])
def test_overlapping_arrays_do_not_share_bytes(second, tmp_path):
    want = np.arange(200, dtype=np.float32)
    (tmp_path / "file").write_bytes(want.tobytes())
    source = FileSource(tmp_path / "file")
    start, size = second
    for offset in (150, 10, 120):  # around the first
        source.tensor(4 * offset, "float32", (5,)).map()
    first = source.tensor(4 * 40, "float32", (60,)).map()
    other = source.tensor(4 * start, "float32", (size,)).map()
    first[:] = -1
    np.testing.assert_array_equal(other, want[start : start + size])
