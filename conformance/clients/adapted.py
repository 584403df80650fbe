"""transformers' own programs on adapted objects: pipelines, a dual encoder, and its tracer where it has one."""

from __future__ import annotations

import pickle
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

import clip_torch

from .models import emoji, pictures
from .peft import batch, ours, theirs
from .record import Found, at_most, difference, refused, works

TITLE, PACKAGES = f"transformers {transformers.__version__.partition('.')[0]}", ("transformers", "torch")
LIMIT = 2e-5


def adapted_processor() -> Any:
    return clip_torch.as_transformers(clip_torch.CLIPProcessor.from_pretrained("emoji"))


def classified(model: Any, processor: Any) -> list[Any]:
    images, names, _ = zip(*pictures(), strict=True)
    tools = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
    pipe = transformers.pipeline("zero-shot-image-classification", model=model, **tools)
    return pipe(list(images), candidate_labels=list(names), hypothesis_template="{}")


def zero_shot() -> Found:
    with tempfile.TemporaryDirectory() as folder:
        processor = transformers.CLIPProcessor.from_pretrained(emoji(Path(folder)))
    want = classified(theirs(), processor)
    found = classified(clip_torch.as_transformers(ours()), adapted_processor())
    if [row[0]["label"] for row in found] != [row[0]["label"] for row in want]:
        raise AssertionError(f"labels: {found}")
    scores = [torch.tensor([label["score"] for label in row]) for row in (*found, *want)]
    half = len(found)
    return works(
        '`pipeline("zero-shot-image-classification", model=as_transformers(model), …)`',
        "The tokenizer and the image processor are those of `as_transformers(processor)`.",
        **at_most(1e-4, scores=difference(torch.stack(scores[:half]), torch.stack(scores[half:]))),
    )


def dual_encoder() -> Found:
    tools = adapted_processor()
    processor = transformers.VisionTextDualEncoderProcessor(tools.image_processor, tools.tokenizer)
    images, names, _ = zip(*pictures(), strict=True)
    given = processor(text=list(names), images=list(images), return_tensors="pt", padding=True)
    figures = {name: difference(given[name], batch()[name]) for name in ("input_ids", "pixel_values")}
    vision = clip_torch.as_transformers(clip_torch.CLIPVisionModel.from_pretrained("emoji"))
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = transformers.BertModel(transformers.BertConfig(vocab_size=len(tools.tokenizer), **size))
    model = transformers.VisionTextDualEncoderModel(vision_model=vision, text_model=text).eval()
    with torch.no_grad():
        out = model(**given)
        want = model.visual_projection(ours().vision_model(given["pixel_values"]).pooler_output)
    figures["image_embeds"] = difference(out.image_embeds, torch.nn.functional.normalize(want, dim=-1))
    return works(
        "`VisionTextDualEncoderProcessor`, "
        "`VisionTextDualEncoderModel(vision_model=as_transformers(…), text_model=BERT)`",
        "Its text side calls with `token_type_ids`, which no CLIP takes.",
        **at_most(LIMIT, **figures),
    )


def traced() -> Found:
    called = "`transformers.utils.fx.symbolic_trace(as_transformers(model), …)`"
    if find_spec("transformers.utils.fx") is None:
        return refused(called, "transformers 5 has no tracer any more: `torch.export` takes the model as it is.")
    from transformers.utils.fx import symbolic_trace

    figures = {}
    for cls, names in (
        (clip_torch.CLIPModel, ["input_ids", "pixel_values", "attention_mask"]),
        (clip_torch.CLIPTextModelWithProjection, ["input_ids"]),
        (clip_torch.CLIPVisionModel, ["pixel_values"]),
    ):
        model = clip_torch.as_transformers(cls.from_pretrained("emoji"))
        again = pickle.loads(pickle.dumps(symbolic_trace(model, names)))
        given = {name: batch()[name][:3] for name in names}
        with torch.no_grad():
            found, want = again(**given), model(**given)
        figures[cls.__name__] = max(
            difference(found[name], value) for name, value in want.items() if isinstance(value, torch.Tensor)
        )
    return works(called, "The traced model is pickled and read again.", **at_most(2e-4, **figures))


CHECKS = (zero_shot, dual_encoder, traced)
