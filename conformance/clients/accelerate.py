"""accelerate: training through `Accelerator`, empty initialisation, and weights that stay on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import accelerate
import torch

import clip_torch

from .models import EMOJI
from .peft import batch, embeds, ours
from .record import Found, at_most, difference, works

TITLE, PACKAGES = "accelerate", ("accelerate", "torch")
LIMIT = 2e-5


def train(accelerator: Any, model: Any, steps: int = 4) -> tuple[Any, Any, list[float]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model.train(), optimizer)
    losses = []
    for _ in range(steps):
        with accelerator.accumulate(model):
            loss = model(**batch(), return_loss=True).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return model, optimizer, losses


def training() -> Found:
    accelerator = accelerate.Accelerator(cpu=True)
    model, _, losses = train(accelerator, ours())
    plain, optimizer = ours().train(), None
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-2)
    for _ in range(4):
        plain(**batch(), return_loss=True).loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    figures = at_most(LIMIT, against_a_plain_loop=difference(embeds(accelerator.unwrap_model(model)), embeds(plain)))
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)
        want = embeds(model)
        with torch.no_grad():
            model.logit_scale.add_(1.0)
            model.text_projection.weight.zero_()
        accelerator.load_state(folder)
        figures |= at_most(0, after_load_state=difference(embeds(model), want))
        accelerator.save_model(model, f"{folder}/model")
        again = clip_torch.CLIPModel.from_pretrained(f"{folder}/model", config=EMOJI)
        figures |= at_most(0, after_save_model=difference(embeds(again), want))
    return works(
        "`Accelerator().prepare`, `accumulate`, `backward`, `clip_grad_norm_`; `save_state`, `load_state`, …",
        "`save_model` writes no config.json: `from_pretrained(folder, config=…)`.",
        first_loss=losses[0],
        last_loss=losses[-1],
        **figures,
    )


def mixed_precision() -> Found:
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        want = ours()(**batch(), return_loss=True).loss.item()
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model, _, losses = train(accelerator, ours(), steps=3)
    if not losses[-1] < losses[0] or model.dtype != torch.float32:
        raise AssertionError(f"losses: {losses}, dtype: {model.dtype}")
    return works(
        "`Accelerator(mixed_precision='bf16')`",
        first_loss=losses[0],
        last_loss=losses[-1],
        **at_most(1e-6, first_loss_against_autocast=abs(losses[0] - want)),
    )


def empty() -> Found:
    with accelerate.init_empty_weights():
        model = clip_torch.CLIPModel(clip_torch.CLIPConfig.from_pretrained(EMOJI))
    if any(not weight.is_meta for weight in model.parameters()):
        raise AssertionError("weights were drawn")
    placed = accelerate.infer_auto_device_map(
        model, max_memory={"cpu": "12MB", "disk": "1GB"}, no_split_module_classes=model._no_split_modules
    )
    split = [name for name in placed if ".layers." in name and not name.rpartition(".")[2].isdigit()]
    if split or len(placed) < 2:
        raise AssertionError(f"device map: {placed}")
    model = accelerate.load_checkpoint_and_dispatch(model, str(EMOJI), device_map={"": "cpu"}, dtype=torch.float32)
    return works(
        "`init_empty_weights`, `infer_auto_device_map(no_split_module_classes=model._no_split_modules)`, "
        "`load_checkpoint_and_dispatch`",
        parts=len(placed),
        **at_most(0, embeddings=difference(embeds(model), embeds(ours()))),
    )


def offloaded() -> Found:
    want, model = embeds(ours()), ours()
    with tempfile.TemporaryDirectory() as folder:
        accelerate.disk_offload(model, folder, execution_device=torch.device("cpu"))
        if not all(weight.is_meta for weight in model.parameters()):
            raise AssertionError("weights stayed in memory")
        figures = at_most(LIMIT, forward=difference(embeds(model), want))
        with torch.no_grad():
            text = model.get_text_features(batch()["input_ids"], batch()["attention_mask"])
            image = model.get_image_features(batch()["pixel_values"])
        got = torch.nn.functional.normalize(torch.cat([text, image]), dim=-1)
        figures |= at_most(LIMIT, features=difference(got, want))
        files = len(list(Path(folder).glob("*.dat")))
    return works("`disk_offload(model, folder)`: each layer is read as it runs", weights_on_disk=files, **figures)


CHECKS = (training, mixed_precision, empty, offloaded)
