"""Public names and parameters of v4.37's tokenizers, processor and batches, read off the real classes.

    python tests/golden/make_names.py FOLDER    # transformers 4.37.2; FOLDER holds a CLIP tokenizer's files

Writes tests/golden/text_names.json: class -> name -> parameters in order, or null for what isn't callable.
"""

import inspect
import json
import sys
import warnings
from pathlib import Path

from transformers import BatchFeature, CLIPImageProcessor, CLIPProcessor, CLIPTokenizer, CLIPTokenizerFast

warnings.simplefilter("ignore")
slow, fast = (kind.from_pretrained(sys.argv[1]) for kind in (CLIPTokenizer, CLIPTokenizerFast))
objects = [slow, fast, CLIPProcessor(CLIPImageProcessor(), fast), fast("a"), BatchFeature({"pixel_values": [1]})]


def parameters(value):
    if not callable(value) or isinstance(value, type):
        return None
    try:
        return [str(p).partition(":")[0].partition("=")[0] for p in inspect.signature(value).parameters.values()]
    except (TypeError, ValueError):
        return None


found = {
    type(item).__name__: {name: parameters(getattr(item, name)) for name in dir(item) if not name.startswith("_")}
    for item in objects
}
found["BatchEncoding"] = {n: p for n, p in found["BatchEncoding"].items() if n not in ("input_ids", "attention_mask")}
Path(__file__).with_name("text_names.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
