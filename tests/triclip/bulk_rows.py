"""The check of bulk embedding that the backends' tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import clip_core
from tests.triclip.image_text import write_tar
from triclip import Clip
from triclip.embed import embed
from triclip.search import open_index

ROUNDING = 1e-5  # of unit rows, in batches of another size
PICTURES = sorted((Path(clip_core.__file__).parent / "models/emoji/pictures").glob("*.png"))[:5]


def check_shard(backend: str, tmp_path: Path) -> None:
    """Pictures and captions of a shard give the rows that `Clip` gives."""
    members = []
    for picture in PICTURES:
        members += [(picture.name, picture.read_bytes()), (f"{picture.stem}.txt", picture.stem.encode())]
    tar = write_tar(tmp_path / "a.tar", members)
    report = embed(tar, tmp_path / "out", backend=backend, what="both", samples_per_shard=3, batch_size=2)
    assert report.rows == {"image": 5, "text": 5} and report.complete and not report.broken
    images, texts = (open_index(tmp_path / "out" / kind) for kind in ("image", "text"))
    clip = Clip.from_pretrained("emoji", backend=backend)
    names = [picture.stem for picture in PICTURES]
    assert [images.metadata(row)["caption"] for row in range(5)] == names
    np.testing.assert_allclose(images.vectors, clip.encode_image(PICTURES), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(texts.vectors, clip.encode_text(names), rtol=0, atol=ROUNDING)
