"""Vectors of millions of pictures and texts, shard by shard: resumable, deduplicated, on one machine or many.

    report = embed("shards/{000..127}.tar", "vectors", model="openai/clip-vit-base-patch32", deduplicate=True)

An output folder holds

    embed.json                 the run's settings and inputs
    image/00000-0000.npy, .npy.json    vectors, names and columns: an index of its own, see `triclip.search`
    text/00000-0000.npy, .npy.json     likewise for captions
    done/00000-0000.json       written last: the shard is complete; lists its skipped items
    broken.jsonl               all skipped items, with reasons

Each output shard has the samples [start, stop) of one input file, both fixed by the plan in embed.json. Work that is
repeated, after a kill or on two machines, therefore gives the same files.
"""

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {
    "ClipSpec": "encoder",
    "Encoder": "encoder",
    "EncoderSpec": "encoder",
    "Report": "run",
    "Settings": "settings",
    "embed": "run",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .encoder import ClipSpec, Encoder, EncoderSpec
    from .run import Report, embed
    from .settings import Settings

__getattr__, __dir__ = lazy_names(__name__, _HOME)
