"""`triclip embed` into a folder, from end to end with the embedded model."""

import json

import numpy as np
import pytest

from clip_core.hub import MODELS
from tests.triclip.command.command import failing, run
from tests.triclip.image_text import write_tar
from triclip import Clip
from triclip.search import FolderIndex, open_index

PICTURES = sorted((MODELS / "emoji" / "pictures").glob("*.png"))


@pytest.fixture
def tar(tmp_path):
    members = []
    for number, path in enumerate([*PICTURES, PICTURES[0]]):
        members += [(f"{number:02d}.png", path.read_bytes()), (f"{number:02d}.txt", path.stem.encode())]
    return write_tar(tmp_path / "emoji.tar", [*members, ("99.png", b"no picture"), ("99.txt", b"nothing")])


def test_a_tar_to_an_index_that_finds(tar, tmp_path, capsys):
    output, count = tmp_path / "vectors", len(PICTURES)
    options = ("--what", "both", "--deduplicate", "--samples-per-shard", 7)
    assert run("embed", tar, "-o", output, *options, "--json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["rows"] == {"image": count, "text": count + 1} and report["complete"]
    assert report["broken"] == 1 and report["duplicates"] == 2
    assert "skipped" in err and "emoji.tar: 99" in err
    clip = Clip.from_pretrained("emoji")
    np.testing.assert_allclose(open_index(output / "image").vectors, clip.encode_image(PICTURES), atol=1e-5)
    texts = [path.stem for path in PICTURES]
    np.testing.assert_allclose(open_index(output / "text").vectors[:count], clip.encode_text(texts), atol=1e-5)
    assert run("search", output / "image", "a rocket", "--json", "--top", 1) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["metadata"]["caption"] == "rocket"
    assert run("index", output / "image", "-o", tmp_path / "x.index") == 0
    assert len(FolderIndex(tmp_path / "x.index")) == count
    capsys.readouterr()
    assert run("embed", tar, "-o", output, *options) == 0
    out = capsys.readouterr().out
    assert f"{count} image vectors and {count + 1} text vectors" in out and "2 duplicates" in out and "/s" not in out
    assert "model.dtype: 'float32', now 'bfloat16'" in failing(
        capsys, "embed", tar, "-o", output, *options, "--dtype", "bfloat16"
    )


def test_usage(tar, tmp_path, capsys):
    output = tmp_path / "out"
    assert "--deduplicate: wanted folders, tar shards or tables" in failing(
        capsys, "embed", tar, "-o", tmp_path / "x.npz", "--deduplicate"
    )
    assert "--append: wanted a file" in failing(capsys, "embed", tar, "-o", output, "--append")
    assert "wanted inputs" in failing(capsys, "embed", "-o", output)
    assert "--engine ray" in failing(capsys, "embed", tar, "-o", output, "--workers", 2)
    assert "0/4" in failing(capsys, "embed", tar, "-o", output, "--shard", "4/4")
    assert "absent" in failing(capsys, "embed", tmp_path / "absent.tar", "-o", output)
    assert "wanted a table" in failing(capsys, "embed", tar, "-o", output, "--what", "texts", "--format", "table")
