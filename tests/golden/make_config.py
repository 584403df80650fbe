"""Make tests/golden/config/configs.json from transformers 4.37.2: what configs become, for many inputs.

    HF_HUB_OFFLINE=1 python tests/golden/make_config.py

Needs transformers==4.37.2 and torch (for dtype values). Each entry keeps its input beside what the library made of it.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

TEXT = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "projection_dim": 24}
VISION = {"hidden_size": 48, "num_attention_heads": 6, "image_size": 30, "patch_size": 2}
# The shape of OpenAI's first published config.json: generation fields, *_config_dict, torch_dtype, all spelt out.
GENERATION = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "bad_words_ids": None,
    "num_beams": 1,
    "sep_token_id": None,
    "return_dict": True,
    "torchscript": False,
    "pruned_heads": {},
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
}
OLD_OPENAI = {
    "_name_or_path": "/fsx/clip",
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 512,
    "text_config": {
        **GENERATION,
        "model_type": "clip_text_model",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "dropout": 0.0,
    },
    "text_config_dict": None,
    "torch_dtype": "float32",
    "transformers_version": None,
    "vision_config": {**GENERATION, "model_type": "clip_vision_model", "dropout": 0.0},
    "vision_config_dict": None,
}
LARGE = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
    "text_config_dict": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "torch_dtype": "float16",
    "transformers_version": "4.16.0.dev0",
    "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14},
    "vision_config_dict": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14},
}
DISAGREEING = {
    "model_type": "clip",
    "text_config": {"hidden_size": 64, "num_attention_heads": 8, "eos_token_id": 7, "hidden_act": "gelu"},
    "text_config_dict": {"hidden_size": 32, "num_attention_heads": 4},
    "vision_config": {"hidden_size": 64, "num_attention_heads": 8, "patch_size": 16, "my_note": "kept"},
    "vision_config_dict": {"patch_size": 8, "id2label": {"0": "a", "1": "b", "2": "c"}},
}
FLAGS = {"output_attentions": True, "output_hidden_states": True, "return_dict": False}
LABELS = {"id2label": {"0": "cat", "1": "dog", "2": "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}


def cases() -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []

    def add(how: str, cls: str, values: dict[str, Any], **kwargs: Any) -> None:
        out.append({"how": how, "class": cls, "values": copy.deepcopy(values), "kwargs": copy.deepcopy(kwargs)})

    towers = {"CLIPTextConfig": TEXT, "CLIPVisionConfig": VISION}
    for cls, small in towers.items():
        for values in ({}, small, {**small, **FLAGS}, {**small, **LABELS}, {**small, "num_labels": 7}):
            add("init", cls, values)
        add(
            "init", cls, {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "my_own": {"a": [1, None]}, "torchscript": True}
        )
        add("init", cls, {"torch_dtype": "float16", "architectures": ["X"], "bos_token_id": 3, "eos_token_id": 2})
        add("init", cls, {"torch_dtype": "bfloat16", "initializer_factor": 0.5, "dropout": 0.1, "pad_token_id": None})
        add("init", cls, {**small, "name_or_path": "somewhere", "prefix": "x", "problem_type": "regression"})
        add("from_dict", cls, small, hidden_act="relu", unknown_key=3, output_attentions=True)
        add("from_dict", cls, {**small, "torch_dtype": "float16"}, torch_dtype="bfloat16", my_key="dropped")
        add("from_dict", cls, {**small, "my_key": 1}, my_key=2)
        add("set", cls, small, hidden_size=96, my_new="x", output_hidden_states=True, num_labels=3)
        add("from_pretrained", cls, small, attention_dropout=0.25)
        for whole in (OLD_OPENAI, LARGE, DISAGREEING):
            add("from_pretrained", cls, whole, layer_norm_eps=1e-4, stray=1)
    full = "CLIPConfig"
    add("init", full, {})
    add(
        "init",
        full,
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 20, "logit_scale_init_value": 1.5},
    )
    add("init", full, {"text_config": TEXT, "vision_config": None, **FLAGS, **LABELS, "note": "kept"})
    add("init", full, {"text_config_dict": TEXT, "vision_config_dict": VISION})
    add("init", full, {"text_config": {"hidden_size": 512}, "text_config_dict": {"hidden_size": 512}})
    add("init", full, {"initializer_factor": 3.0, "torch_dtype": "float16", "tie_word_embeddings": False})
    add("init", full, {"text_config": {**TEXT, **FLAGS, "torch_dtype": "float16"}, "vision_config": {"num_labels": 5}})
    for whole in (OLD_OPENAI, LARGE, DISAGREEING):
        add("init", full, whole)
        add("from_dict", full, whole, projection_dim=30, output_attentions=True, stray=[1])
        add("from_pretrained", full, whole, logit_scale_init_value=4.6, torch_dtype="float16")
    add("from_dict", full, {"text_config": TEXT}, text_config={"hidden_size": 64, "vocab_size": 7})
    add("set", full, {"text_config": TEXT}, projection_dim=64, extra=None, output_attentions=True)
    add("from_text_vision_configs", full, {"text": TEXT, "vision": VISION})
    add("from_text_vision_configs", full, {"text": {**TEXT, **FLAGS}, "vision": {}}, projection_dim=40, note="kept")
    return out


def make(case: dict[str, Any], library: Any) -> tuple[Any, Any]:
    """(config, unused keywords or None) as `library` makes them of a case."""
    cls, values, kwargs = getattr(library, case["class"]), copy.deepcopy(case["values"]), copy.deepcopy(case["kwargs"])
    if case["how"] == "init":
        return cls(**values), None
    if case["how"] == "from_dict":
        return cls.from_dict(values, return_unused_kwargs=True, **kwargs)
    if case["how"] == "from_pretrained":
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(values))
            return cls.from_pretrained(folder, return_unused_kwargs=True, **kwargs)
    if case["how"] == "from_text_vision_configs":
        text, vision = library.CLIPTextConfig(**values["text"]), library.CLIPVisionConfig(**values["vision"])
        return cls.from_text_vision_configs(text, vision, **kwargs), None
    config = cls(**values)
    for name, value in kwargs.items():
        setattr(config, name, value)
    return config, None


def main() -> None:
    import transformers  # here, because the tests use the cases and `make` without it

    warnings.simplefilter("ignore")
    assert transformers.__version__ == "4.37.2", transformers.__version__
    out = []
    for case in cases():
        config, unused = make(case, transformers)
        if unused is not None:
            unused = {key: str(value) for key, value in unused.items()}
        made = {"unused": unused, "to_dict": config.to_dict(), "to_diff_dict": config.to_diff_dict()}
        made |= {"num_labels": config.num_labels, "use_return_dict": config.use_return_dict}
        out.append({**case, **made})
    path = Path(__file__).parent / "config" / "configs.json"
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(entry, sort_keys=True) for entry in out)
    path.write_text(f"[\n{lines}\n]\n")
    print(len(out), path.stat().st_size)


if __name__ == "__main__":
    main()
