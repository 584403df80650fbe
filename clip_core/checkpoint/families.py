"""Files that are no CLIP which this package computes: what they are, by the names of their tensors.

For messages only. A file is looked up here when it has no CLIP tower, or names that no CLIP has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .tensor import Tensor

_INVERSION = "a textual inversion: vectors for new tokens, no model. Load it with diffusers' load_textual_inversion"
# (pattern, what it is), the more particular first. Separators are dots; KerasHub's and TensorFlow's slashes are turned.
_FAMILIES: tuple[tuple[str, str], ...] = (
    (
        r"lora_(up|down|te|unet|A|B|a|b)\b|lora_te\d*_|lora_unet_|\.lora\.|\.hada_w\d|\.lokr_w\d|\.alpha$",
        "a LoRA: changes to a model's weights, no model. Load the model, then the LoRA with peft or diffusers",
    ),
    (
        r"^(string_to_param|string_to_token|emb_params)(\.|$)",
        _INVERSION,
    ),
    (r"(^|\.)text_decoder\.|(^|\.)visual\.attn_pool\.", "CoCa (open_clip): attention pooling and a text decoder"),
    (
        r"\.ls_[12]\.gamma$",
        "a CLIP with layer scale (open_clip's ViT-M-16-alt and its like)",
    ),
    (r"(^|\.)visual\.trunk\.(stages|stem)\.", "a CLIP with a ConvNeXt vision tower (open_clip with timm)"),
    (r"(^|\.)visual\.trunk\.attn_pool\.", "SigLIP (open_clip with timm)"),
    (r"(^|\.)visual\.layer1\.0\.", "a ResNet vision tower of which parts are missing"),
    (
        r"(^|\.)visual\.trunk\.blocks\.\d+\.(attn\.(q_bias|q_proj|k_proj|v_bias|norm)|mlp\.(w12|fc1_g|w1|norm))",
        "EVA-CLIP (open_clip with timm)",
    ),
    (r"(^|\.)visual\.trunk\.", "a CLIP whose vision tower is timm's (EVA-CLIP, SigLIP and others, by open_clip)"),
    (r"(^|\.)visual\.(blocks\.\d+\.attn\.|rope\.|patch_embed\.)", "EVA-CLIP"),
    (
        r"(^|\.)text\.transformer\.(embeddings|encoder|roberta|shared|block|layers\.\d+\.self_attn)\b",
        "a CLIP whose text tower is another library's (open_clip with BERT, RoBERTa, mT5 or NLLB)",
    ),
    (r"(^|\.)vision_model\.head\.(attention|probe)", "SigLIP"),
    (
        r"(^|\.)text_model\.encoder\.layer\.\d+\.attention\.self\.|^bert\.encoder\.",
        "a CLIP with a BERT text tower (Chinese CLIP, Taiyi, ALIGN)",
    ),
    (r"(^|\.)text_model\.roberta\.", "AltCLIP, whose text tower is XLM-RoBERTa"),
    (r"(^|\.)vision_model\.encoder\.stages\.", "GroupViT"),
    (r"(^|\.)vision_model\.encoder\.layers\.\d+\.self_attn\.qkv\.", "BLIP"),
    (r"^mit\.encoder\.|^prompts_generator\.", "X-CLIP"),
    (r"^clip\.|^decoder\.(film_mul|reduces)\.", "CLIPSeg, or another model around a CLIP"),
    (r"^(class|box)_head\.|^owlvit\.", "OWL-ViT"),
    (r"(^|\.)logit_bias$", "a CLIP trained with a sigmoid loss (its logit_bias has no place here)"),
    (r"(^|\.)(image_encoder\.model|text_encoder\.transformer)\.", "MobileCLIP"),
    (r"model\.diffusion_model\.|^(down_blocks|up_blocks|mid_block)\.", "a diffusion model without a CLIP encoder"),
    (r"^first_stage_model\.|^(encoder|decoder)\.(mid|up|down)[._]", "a VAE"),
    (r"(^|\.)encoder\.block\.\d+\.layer\.\d+\.SelfAttention\.|^shared\.weight$", "a T5"),
    (r"(^|\.)h\.\d+\.attn\.c_attn\.", "a GPT-2"),
    (r"(^|\.)embeddings\.word_embeddings\.weight$", "a BERT or a descendant of it"),
    (r"(^|\.)model\.layers\.\d+\.self_attn\.", "a language model"),
)
_VECTOR_WIDTHS = (768, 1024, 1280)


def name_of(names: Iterable[str]) -> str | None:
    """What a file with tensors of these names is, where it is known; else None."""
    spelled = [name.replace("/", ".") for name in names]
    for pattern, what in _FAMILIES:
        if any(re.search(pattern, name) for name in spelled):
            return what
    return None


def describe(tensors: Mapping[str, Tensor]) -> str:
    """For a file without a CLIP tower: what it is, or the first names in it."""
    if not tensors:
        return "it holds no tensors"
    what = name_of(tensors)
    vectors = len(tensors) <= 8 and all(
        len(t.shape) in (1, 2) and t.shape[-1] in _VECTOR_WIDTHS and "." not in n and "/" not in n
        for n, t in tensors.items()
    )
    if what is None and vectors:
        what = _INVERSION
    if what is not None:
        return f"it is {what}"
    listed = ", ".join(list(tensors)[:3])
    return f"it has {len(tensors)} tensors: {listed}{', ...' if len(tensors) > 3 else ''}"
