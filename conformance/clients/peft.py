"""peft: LoRA fine-tunes of our models, saved, loaded, merged, and exchanged with transformers' models."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

import clip_torch

from .models import emoji, pictures
from .record import Found, at_most, difference, differs, works

TITLE, PACKAGES = "peft", ("peft", "transformers", "torch")
LIMIT = 2e-5
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@functools.cache
def batch() -> dict[str, torch.Tensor]:
    processor = clip_torch.CLIPProcessor.from_pretrained("emoji")
    images, names, _ = zip(*pictures(), strict=True)
    return dict(processor(text=list(names), images=list(images), return_tensors="pt", padding=True))


def ours() -> Any:
    return clip_torch.CLIPModel.from_pretrained("emoji")


def theirs() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return transformers.CLIPModel.from_pretrained(emoji(Path(folder)), dtype=torch.float32).eval()


def embeds(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model.eval()(**batch())
    return torch.cat([out.text_embeds, out.image_embeds])


def fine_tune(model: Any, steps: int = 12) -> list[float]:
    """A few steps on the sixteen pictures and their names; the losses."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(**batch(), return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def tuned(**values: Any) -> tuple[Any, list[float]]:
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **values})
    model = peft.get_peft_model(ours(), config)
    return model, fine_tune(model)


def lora() -> Found:
    model, losses = tuned()
    if not losses[-1] < 0.8 * losses[0]:
        raise AssertionError(f"losses: {losses}")
    fresh = ours().state_dict()
    moved = [
        name
        for name, value in model.get_base_model().state_dict().items()
        if "lora_" not in name and not torch.equal(value, fresh[name.replace(".base_layer", "")])
    ]
    if moved:
        raise AssertionError(f"weights outside the adapter changed: {moved[:3]}")
    trained, whole = model.get_nb_trainable_parameters()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = peft.PeftModel.from_pretrained(ours(), folder)
        figures = at_most(0, loaded=difference(embeds(again), embeds(model)))
        other = peft.PeftModel.from_pretrained(theirs(), folder)
        figures |= at_most(LIMIT, loaded_by_transformers=difference(embeds(other), embeds(model)))
    return works(
        "`get_peft_model(CLIPModel, LoraConfig)`, 12 steps, `save_pretrained`, `PeftModel.from_pretrained`",
        "The class as it is. The saved adapter gives transformers' CLIPModel the same embeddings.",
        first_loss=losses[0],
        last_loss=losses[-1],
        trained_parameters=trained,
        of=whole,
        **figures,
    )


def merged() -> Found:
    model, _ = tuned()
    want = embeds(model)
    whole = model.merge_and_unload()
    if type(whole) is not clip_torch.CLIPModel:
        raise AssertionError(f"{type(whole)}")
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        again = transformers.CLIPModel.from_pretrained(folder).eval()
        figures = at_most(
            LIMIT, merged=difference(embeds(whole), want), loaded_by_transformers=difference(embeds(again), want)
        )
    return works("`merge_and_unload`, then `CLIPModel.save_pretrained`", **figures)


def from_transformers() -> Found:
    torch.manual_seed(0)
    model = peft.get_peft_model(theirs(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    fine_tune(model, steps=3)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = peft.PeftModel.from_pretrained(ours(), folder)
        figures = at_most(LIMIT, embeddings=difference(embeds(again), embeds(model)))
    return works("an adapter trained on transformers' CLIPModel, loaded onto ours", **figures)


def other_kinds() -> Found:
    """Other common choices: all linear layers, DoRA, whole modules beside the adapter."""
    figures = {}
    for name, values in {
        "all_linear": {"target_modules": "all-linear"},
        "dora": {"use_dora": True},
        "modules_to_save": {"modules_to_save": ["visual_projection", "text_projection"]},
    }.items():
        model, losses = tuned(**values)
        if not losses[-1] < losses[0]:
            raise AssertionError(f"{name}: losses {losses}")
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            other = peft.PeftModel.from_pretrained(theirs(), folder)
            figures |= at_most(LIMIT, **{name: difference(embeds(other), embeds(model))})
    return works("`target_modules='all-linear'`, `use_dora=True`, `modules_to_save=[…_projection]`", **figures)


def features_and_checkpointing() -> Found:
    model, _ = tuned()
    base = model.get_base_model()
    with torch.no_grad():
        features = base.get_text_features(batch()["input_ids"], batch()["attention_mask"])
        out = model(**batch())
    short = difference(torch.nn.functional.normalize(features, dim=-1), out.text_embeds)
    model.train()
    gradients = []
    for enabled in (False, True):
        if enabled:
            base.gradient_checkpointing_enable()
            base.enable_input_require_grads()
        model.zero_grad()
        model(**batch(), return_loss=True).loss.backward()
        gradients.append(torch.cat([w.grad.flatten() for w in model.parameters() if w.requires_grad]))
    return works(
        "`get_text_features` with an adapter; `gradient_checkpointing_enable`, `enable_input_require_grads`",
        **at_most(LIMIT, features=short, gradients=difference(*gradients)),
    )


def towers() -> Found:
    """peft's classes for tasks are for transformers' heads; a tower is adapted without one."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(clip_torch.CLIPVisionModel.from_pretrained("emoji"), config)
    with torch.no_grad():
        got = model(pixel_values=batch()["pixel_values"]).pooler_output
        want = clip_torch.CLIPVisionModel.from_pretrained("emoji")(batch()["pixel_values"]).pooler_output
    figures = at_most(LIMIT, untrained=difference(got, want))
    task = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="FEATURE_EXTRACTION")
    text = peft.get_peft_model(clip_torch.CLIPTextModel.from_pretrained("emoji"), task)
    try:
        text(input_ids=batch()["input_ids"])
    except TypeError as error:
        note = f"With `task_type='FEATURE_EXTRACTION'` peft passes `inputs_embeds`, which CLIP never took (“{error}”)."
        return differs("a tower: `get_peft_model(CLIPVisionModel, LoraConfig(…))`", note + " Leave it out.", **figures)
    return works("a tower: `get_peft_model(CLIPVisionModel, LoraConfig(…))`, with and without `task_type`", **figures)


CHECKS = (lora, merged, from_transformers, other_kinds, features_and_checkpointing, towers)
