"""diffusers' Stable Diffusion pipelines, tiny and random, with our text encoders, tokenizer and image processor.

The same weights, tokens and noise go through pipelines with transformers' classes; prompts' embeddings and pictures
are compared.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

import clip_torch

from . import models
from .record import Found, at_most, difference, differs, refused, works

TRANSFORMERS_5 = int(transformers.__version__.split(".")[0]) >= 5
TITLE = "diffusers" if TRANSFORMERS_5 else "diffusers with transformers 4"
PACKAGES = ("diffusers", "transformers", "peft", "accelerate", "torch")
EMBEDS = 2e-5  # float32, as everywhere in this project
PICTURE = 2e-4  # of a pixel between 0 and 1, after a random network has worked on it twice
PROMPT, NEGATIVE = "a photo of a red fox in the snow, watercolour", "blurry"
LONG = "a very detailed picture of a fox and of all that it sees in the snow, " * 8


@functools.cache
def folder() -> Path:
    """Our text encoders and tokenizer as their `save_pretrained` writes them, which transformers loads."""
    path = Path(tempfile.mkdtemp(prefix="triclip-diffusers-"))
    models.text_encoder().save_pretrained(path / "text_encoder")
    second().save_pretrained(path / "text_encoder_2")
    clip_torch.CLIPTokenizer().save_pretrained(path / "tokenizer")
    return path


def second() -> Any:
    """As SDXL's second text encoder: with a projection, another activation and width."""
    torch.manual_seed(1)
    config = clip_torch.CLIPTextConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=24,
        hidden_act="gelu", bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    return clip_torch.CLIPTextModelWithProjection(config).eval()


def ours(name: str = "text_encoder") -> Any:
    cls = clip_torch.CLIPTextModel if name == "text_encoder" else clip_torch.CLIPTextModelWithProjection
    return cls.from_pretrained(folder() / name)


def theirs(name: str = "text_encoder") -> Any:
    cls = transformers.CLIPTextModel if name == "text_encoder" else transformers.CLIPTextModelWithProjection
    return cls.from_pretrained(folder() / name).eval()


def our_tokenizer() -> Any:
    return clip_torch.CLIPTokenizer.from_pretrained(folder() / "tokenizer")


def their_tokenizer() -> Any:
    return transformers.CLIPTokenizer.from_pretrained(folder() / "tokenizer")


def parts(width: int = 32, **unet: Any) -> dict[str, Any]:
    """What else a pipeline needs, the same each time."""
    torch.manual_seed(2)
    blocks = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    network = diffusers.UNet2DConditionModel(
        sample_size=16, down_block_types=down, up_block_types=up, cross_attention_dim=width, **blocks, **unet
    )
    coder = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **blocks
    )
    return {
        "unet": network.eval(),
        "vae": coder.eval(),
        "scheduler": diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
    }


def pipeline(text_encoder: Any, tokenizer: Any, **others: Any) -> Any:
    extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False, **others}
    pipe = StableDiffusionPipeline(text_encoder=text_encoder, tokenizer=tokenizer, **parts(), **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe: Any, prompt: str = PROMPT, **values: Any) -> np.ndarray:
    noise = torch.Generator().manual_seed(3)
    wanted = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np", "generator": noise}
    return pipe(prompt, negative_prompt=NEGATIVE, **wanted, **values).images[0]


def embeds(pipe: Any, prompt: str = PROMPT, **values: Any) -> torch.Tensor:
    with torch.no_grad():
        return pipe.encode_prompt(prompt, "cpu", 1, False, **values)[0]


def told(call: Any, kind: type[Exception]) -> str:
    """The message of the error that `call` raises."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{call}: wanted {kind.__name__}, and it went through")


# -- the checks -------------------------------------------------------------------------------------------------------


def text_to_picture() -> Found:
    a, b = pipeline(ours(), our_tokenizer()), pipeline(theirs(), their_tokenizer())
    if difference(embeds(a), embeds(a, "another prompt")) < 1e-2:
        raise AssertionError("two prompts have the same embeddings")
    return works(
        "`StableDiffusionPipeline(text_encoder=CLIPTextModel, tokenizer=CLIPTokenizer, …)`: a picture with guidance",
        "The classes as they are; no adapter.",
        **at_most(EMBEDS, embeddings=difference(embeds(a), embeds(b))),
        **at_most(PICTURE, picture=difference(picture(a), picture(b))),
    )


def long_prompt() -> Found:
    a, b = pipeline(ours(), our_tokenizer()), pipeline(theirs(), their_tokenizer())
    ids = our_tokenizer()(LONG, padding="longest", return_tensors="pt").input_ids[:, 76:-1]
    decoded = [tokenizer.batch_decode(ids)[0] for tokenizer in (our_tokenizer(), their_tokenizer())]
    if "".join(decoded[0].split()) != "".join(decoded[1].split()):
        raise AssertionError(f"batch_decode: {decoded}")
    apart = at_most(EMBEDS, embeddings=difference(embeds(a, LONG), embeds(b, LONG)))
    called = "a prompt of more than 77 tokens: cut, and `tokenizer.batch_decode` names the rest"
    if decoded[0] == decoded[1]:
        return works(called, **apart)
    return differs(called, "transformers 5 writes “snow , a” in that warning, v4.37 and ours “snow, a”.", **apart)


def bfloat16() -> Found:
    a, b = pipeline(ours(), our_tokenizer()), pipeline(theirs(), their_tokenizer())
    got, want = (embeds(pipe.to(torch.bfloat16)) for pipe in (a, b))
    if got.dtype != torch.bfloat16 or a.text_encoder.dtype != torch.bfloat16:
        raise AssertionError(f"dtype: {got.dtype}")
    return works("`pipe.to(torch.bfloat16)`, `text_encoder.dtype`", **at_most(4e-2, embeddings=difference(got, want)))


def clip_skip() -> Found:
    a, b, want = pipeline(ours(), our_tokenizer()), pipeline(theirs(), their_tokenizer()), theirs()
    ids = our_tokenizer()(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        states = want(ids, output_hidden_states=True).hidden_states
        norm = getattr(want, "text_model", want).final_layer_norm
        figures = {
            f"embeddings_skip_{skip}": difference(embeds(a, clip_skip=skip), norm(states[-(skip + 1)]))
            for skip in (1, 2)
        }
    if difference(embeds(a, clip_skip=1), embeds(a)) < 1e-3:
        raise AssertionError("clip_skip changes nothing")
    note = ""
    if TRANSFORMERS_5:
        words = told(lambda: embeds(b, clip_skip=1), AttributeError)
        note = f"With transformers 5's own CLIPTextModel this fails (“{words}”): `text_model` is gone there."
    return works("`pipe(…, clip_skip=1)` and `2`", note, **at_most(EMBEDS, **figures))


def textual_inversion() -> Found:
    torch.manual_seed(4)
    vectors = {"<thing>": torch.randn(32), "<style>": torch.randn(2, 32)}
    pair = pipeline(ours(), our_tokenizer()), pipeline(theirs(), their_tokenizer())
    before = embeds(pair[0], "a <thing> in <style>")
    for pipe in pair:
        pipe.load_textual_inversion([{name: vector} for name, vector in vectors.items()])
    a, b = pair
    if len(a.tokenizer) != len(b.tokenizer) or a.text_encoder.get_input_embeddings().num_embeddings != 49411:
        raise AssertionError(f"tokens: {len(a.tokenizer)}, {len(b.tokenizer)}")
    got, want = (embeds(pipe, "a <thing> in <style>") for pipe in pair)
    if difference(got, before) < 1e-3:
        raise AssertionError("the new tokens change nothing")
    apart = at_most(EMBEDS, embeddings=difference(got, want))
    return works(
        "`load_textual_inversion` of one and of two vectors",
        "`add_tokens`, `get_vocab`, `added_tokens_encoder`, `resize_token_embeddings` are those of v4.37.",
        **apart,
    )


def textual_inversion_removed() -> Found:
    vector = {"<thing>": torch.randn(32, generator=torch.Generator().manual_seed(4))}
    a, b = pipeline(ours(), our_tokenizer()), pipeline(ours(), their_tokenizer())
    for pipe in (a, b):
        pipe.load_textual_inversion(dict(vector))
    b.unload_textual_inversion("<thing>")
    want = embeds(pipeline(ours(), their_tokenizer()))
    figures = at_most(0, with_transformers_tokenizer=difference(embeds(b), want))
    if b.text_encoder.get_input_embeddings().num_embeddings != 49408:
        raise AssertionError(f"tokens: {b.text_encoder.get_input_embeddings().num_embeddings}")
    words = told(lambda: a.unload_textual_inversion("<thing>"), AttributeError)
    return refused(
        "`unload_textual_inversion` with our tokenizer",
        f"diffusers takes tokens out of the private tables of transformers' tokenizers (“{words}”). With "
        "transformers' tokenizer and our encoder it works; otherwise load both again.",
        **figures,
    )


def lora_weights(scale: float = 0.3) -> dict[str, torch.Tensor]:
    """A LoRA of the text encoder under the published key names."""
    draw = torch.Generator().manual_seed(5)
    weights = {}
    sizes = {f"self_attn.{name}": (32, 32) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    for layer in range(3):
        for name, (rows, columns) in {**sizes, "mlp.fc1": (64, 32), "mlp.fc2": (32, 64)}.items():
            key = f"text_encoder.text_model.encoder.layers.{layer}.{name}"
            weights[f"{key}.lora_A.weight"] = torch.randn(4, columns, generator=draw) * scale
            weights[f"{key}.lora_B.weight"] = torch.randn(rows, 4, generator=draw) * scale
    return weights


def kohya(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same under the names that training scripts outside diffusers write."""
    found = {}
    for key, value in weights.items():
        path, _, leaf = key.removeprefix("text_encoder.").rpartition(".lora_")
        name = f"lora_te_{path.replace('.', '_')}"
        found[f"{name}.lora_{'down' if leaf.startswith('A') else 'up'}.weight"] = value
        found[f"{name}.alpha"] = torch.tensor(4.0)  # the rank: a factor of 1
    return found


def lora() -> Found:
    pair = pipeline(clip_torch.as_transformers(ours()), our_tokenizer()), pipeline(theirs(), their_tokenizer())
    before, figures = embeds(pair[0]), {}
    for label, weights in (("published_names", lora_weights()), ("kohya_names", kohya(lora_weights()))):
        for pipe in pair:
            pipe.load_lora_weights(dict(weights))
        got, want = (embeds(pipe) for pipe in pair)
        if difference(got, before) < 1e-2:
            raise AssertionError(f"{label}: the LoRA changes nothing")
        figures[label] = difference(got, want)
        for pipe in pair:
            pipe.unload_lora_weights()
        if difference(embeds(pair[0]), before):
            raise AssertionError(f"{label}: unloading leaves a trace")
    return works(
        "`load_lora_weights`, `unload_lora_weights` with a LoRA of the text encoder",
        "With `as_transformers(text_encoder)`: diffusers calls `load_adapter`.",
        **at_most(EMBEDS, **figures),
    )


def lora_scaled_and_fused() -> Found:
    pair = pipeline(clip_torch.as_transformers(ours()), our_tokenizer()), pipeline(theirs(), their_tokenizer())
    for pipe in pair:
        pipe.load_lora_weights(lora_weights(), adapter_name="fox")
        pipe.set_adapters("fox", 0.5)
    scaled = difference(*(embeds(pipe) for pipe in pair))
    for pipe in pair:
        pipe.fuse_lora(components=["text_encoder"])
    return works(
        "`set_adapters(name, 0.5)`, `fuse_lora(components=['text_encoder'])`",
        **at_most(EMBEDS, scaled=scaled, fused=difference(*(embeds(pipe) for pipe in pair))),
    )


def lora_names() -> Found:
    """As in its DreamBooth scripts: add an adapter for training, and save it."""
    encoder = clip_torch.as_transformers(ours())
    names = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    encoder.add_adapter(LoraConfig(r=4, target_modules=names))
    trained = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
    if not trained or any("lora_" not in name for name in trained):
        raise AssertionError(f"trained: {trained[:3]}")
    state = get_peft_model_state_dict(encoder)
    wanted = {key.removeprefix("text_encoder.") for key in lora_weights()}
    if set(state) != wanted:
        raise AssertionError(f"names: {sorted(set(state) ^ wanted)[:3]}")
    with tempfile.TemporaryDirectory() as path:
        StableDiffusionPipeline.save_lora_weights(path, text_encoder_lora_layers=state)
        again = pipeline(theirs(), their_tokenizer())
        again.load_lora_weights(path, weight_name="pytorch_lora_weights.safetensors")  # offline it asks for the name
        encoder.save_pretrained(path)
        if not (Path(path) / "adapter_model.safetensors").exists() or (Path(path) / "config.json").exists():
            raise AssertionError(f"save_pretrained: wanted an adapter alone, found {os.listdir(path)}")
    published = {key.removeprefix("text_encoder."): value for key, value in lora_weights().items()}
    bare = {key.removeprefix("text_model."): value for key, value in published.items()}
    found = []
    for weights in (published, bare):
        encoder = clip_torch.as_transformers(ours())
        encoder.load_adapter(peft_config=LoraConfig(r=4, target_modules=names), adapter_state_dict=weights)
        found.append(embeds(pipeline(encoder, our_tokenizer())))
    at_most(0, bare_names=difference(*found))
    note = (
        "Saved by `save_lora_weights` and loaded into a pipeline with transformers' encoder; `save_pretrained` of the "
        "encoder writes the adapter alone."
    )
    if TRANSFORMERS_5:
        note += (
            " transformers 5's own encoder gives names without `text_model.`: such a LoRA loads by "
            "`as_transformers(model).load_adapter`, not by `load_lora_weights`, which looks for the prefix itself."
        )
    return works("`add_adapter(LoraConfig)`, `get_peft_model_state_dict`: the published names", note, names=len(state))


def passed_to_from_pretrained() -> Found:
    """diffusers' type check refuses the plain class and accepts the adapted one."""
    with tempfile.TemporaryDirectory() as path:
        whole = pipeline(theirs(), their_tokenizer())
        whole.save_pretrained(path)
        words = told(lambda: StableDiffusionPipeline.from_pretrained(path, text_encoder=ours()), ValueError)
        adapted = StableDiffusionPipeline.from_pretrained(path, text_encoder=clip_torch.as_transformers(ours()))
        adapted.set_progress_bar_config(disable=True)
        figures = at_most(PICTURE, picture=difference(picture(adapted), picture(whole)))
    words = words[words.index("is of type") :]
    return works(
        "`from_pretrained(folder, text_encoder=as_transformers(model))`",
        f"The plain class is refused by diffusers (“{words}”).",
        **figures,
    )


def tokenizer_to_from_pretrained() -> Found:
    with tempfile.TemporaryDirectory() as path:
        pipeline(theirs(), their_tokenizer()).save_pretrained(path)
        words = told(lambda: StableDiffusionPipeline.from_pretrained(path, tokenizer=our_tokenizer()), ValueError)
    return refused(
        "`from_pretrained(folder, tokenizer=CLIPTokenizer)`",
        f"By diffusers: “{words[words.index('is of type') :]}”. Set it afterwards (`pipe.tokenizer = …`), use the "
        "constructor, or leave the folder's: the ids are the same.",
    )


def saved_pipeline() -> Found:
    a = pipeline(clip_torch.as_transformers(ours()), their_tokenizer())
    with tempfile.TemporaryDirectory() as path:
        a.save_pretrained(path)
        entry = json.loads((Path(path) / "model_index.json").read_text())["text_encoder"]
        again = StableDiffusionPipeline.from_pretrained(path)
        again.set_progress_bar_config(disable=True)
        found = type(again.text_encoder)
        if found is not transformers.CLIPTextModel or entry != ["transformers", "CLIPTextModel"]:
            raise AssertionError(f"model_index.json: {entry}, loaded: {found}")
        figures = at_most(PICTURE, picture=difference(picture(a), picture(again)))
    return works(
        "`save_pretrained` of a pipeline with `as_transformers(model)`",
        "`model_index.json` names transformers' class: the pipeline loads where triclip is not installed.",
        **figures,
    )


def saved_plain() -> Found:
    with tempfile.TemporaryDirectory() as path:
        pipeline(ours(), our_tokenizer()).save_pretrained(path)
        missing = [name for name in ("text_encoder", "tokenizer") if not (Path(path) / name).exists()]
    if missing != ["text_encoder", "tokenizer"]:
        raise AssertionError(f"not saved: {missing}")
    return differs(
        "`save_pretrained` of a pipeline with the plain classes",
        "diffusers saves only classes it knows: it warns and leaves out text encoder and tokenizer. Save them with "
        "their own `save_pretrained`, or adapt the encoder and use transformers' tokenizer.",
    )


def single_file() -> Found:
    with tempfile.TemporaryDirectory() as path:
        file, whole = Path(path) / "sd.safetensors", Path(path) / "pipeline"
        state = {
            f"cond_stage_model.transformer.{key}": value for key, value in models.text_encoder().state_dict().items()
        }
        save_file({**state, "model.diffusion_model.time_embed.0.bias": torch.zeros(4)}, file)
        pipeline(theirs(), their_tokenizer()).save_pretrained(whole)
        loaded = clip_torch.CLIPTextModel.from_pretrained(
            file, component="text_encoder", config=folder() / "text_encoder"
        )
        keep = {"config": str(whole), "tokenizer": their_tokenizer(), "safety_checker": None, "feature_extractor": None}
        a = StableDiffusionPipeline.from_single_file(str(file), text_encoder=loaded, **parts(), **keep)
        b = StableDiffusionPipeline.from_single_file(str(file), **parts(), **keep)
    if type(b.text_encoder) is not transformers.CLIPTextModel:
        raise AssertionError(f"{type(b.text_encoder)}")
    return works(
        "`from_single_file(file, text_encoder=CLIPTextModel.from_pretrained(file, component='text_encoder'))`",
        "Beside the encoder that diffusers reads from the same file. The plain class is taken here.",
        **at_most(EMBEDS, embeddings=difference(embeds(a), embeds(b))),
    )


def sdxl() -> Found:
    unet = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "attention_head_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    }  # fmt: skip
    outputs = []
    for make, tokenizer in ((ours, our_tokenizer), (theirs, their_tokenizer)):
        pipe = StableDiffusionXLPipeline(
            text_encoder=make(), text_encoder_2=make("text_encoder_2"), tokenizer=tokenizer(),
            tokenizer_2=tokenizer(), **parts(80, **unet), add_watermarker=False,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            outputs.append((*pipe.encode_prompt(PROMPT, negative_prompt=NEGATIVE), picture(pipe)))
    figures = [difference(*pair) for pair in zip(*outputs, strict=True)]
    return works(
        "`StableDiffusionXLPipeline(text_encoder=, text_encoder_2=CLIPTextModelWithProjection, …)`",
        **at_most(EMBEDS, embeddings=max(figures[:2]), pooled=max(figures[2:4])),
        **at_most(PICTURE, picture=figures[4]),
    )


def safety_checker() -> Found:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    torch.manual_seed(6)
    tower = {**models.TOWER, "image_size": 224, "patch_size": 32}
    config = transformers.CLIPConfig(vision_config=tower, projection_dim=16)
    checker = StableDiffusionSafetyChecker(config).eval()
    seen = []
    checker.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["clip_input"]), with_kwargs=True)
    own = clip_torch.CLIPImageProcessor()
    pipe = pipeline(ours(), our_tokenizer(), safety_checker=checker, feature_extractor=own)
    made = picture(pipe)
    want = own(pipe.image_processor.numpy_to_pil(made[None]), return_tensors="pt").pixel_values
    return works(
        "`safety_checker=StableDiffusionSafetyChecker(…)`, `feature_extractor=CLIPImageProcessor`",
        "The checker is a transformers model of diffusers' own; our image processor feeds it.",
        **at_most(1e-6, pixels=difference(seen[0], want)),
    )


def offloading() -> Found:
    """What `enable_model_cpu_offload` does to an encoder, by accelerate's functions (there is no GPU here)."""
    from accelerate import cpu_offload_with_hook

    encoder = ours()
    encoder, hook = cpu_offload_with_hook(encoder, "cpu")
    a = pipeline(encoder, our_tokenizer())
    want = embeds(pipeline(ours(), our_tokenizer()))
    got = embeds(a)
    hook.offload()
    return works("`accelerate.cpu_offload_with_hook(text_encoder)`", **at_most(0, embeddings=difference(got, want)))


CHECKS = (
    text_to_picture,
    long_prompt,
    bfloat16,
    clip_skip,
    textual_inversion,
    textual_inversion_removed,
    lora,
    lora_scaled_and_fused,
    lora_names,
    passed_to_from_pretrained,
    tokenizer_to_from_pretrained,
    saved_pipeline,
    saved_plain,
    single_file,
    sdxl,
    safety_checker,
    offloading,
)
