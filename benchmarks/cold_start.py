"""From the start of a process to one classified photograph, ViT-B/32 in PyTorch."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Pair, Row, Side

# Labels and their prompts are the same everywhere; each program prints the probabilities.
OURS = """
import json, sys
from triclip import Clip
clip = Clip.from_pretrained(sys.argv[1] + "/vit_b32"MMAP)
result = clip.classify(sys.argv[1] + "/photographs_640/0000.jpg", ["cat", "dog", "car"], "a photo of a {}")
print(json.dumps(result.probabilities[0].tolist()))
"""
MAPPED = OURS.replace("MMAP", ", mmap=True")
OURS = OURS.replace("MMAP", "")
HF = """
import json, sys, torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor
model = CLIPModel.from_pretrained(sys.argv[1] + "/vit_b32").eval()
processor = CLIPProcessor.from_pretrained(sys.argv[1] + "/vit_b32")
texts = [f"a photo of a {label}" for label in ("cat", "dog", "car")]
image = Image.open(sys.argv[1] + "/photographs_640/0000.jpg")
with torch.inference_mode():
    logits = model(**processor(text=texts, images=image, return_tensors="pt", padding=True)).logits_per_image
print(json.dumps(logits.softmax(-1)[0].tolist()))
"""
OPEN_CLIP = """
import json, sys, torch
from benchmarks.peers import stub_torchvision
stub_torchvision()
import open_clip
from PIL import Image
model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
model.eval()
image = preprocess(Image.open(sys.argv[1] + "/photographs_640/0000.jpg"))[None]
texts = open_clip.get_tokenizer("ViT-B-32")([f"a photo of a {label}" for label in ("cat", "dog", "car")])
with torch.inference_mode():
    model(image, texts)
print("null")
"""
ROW = Row(
    title="Cold start",
    about=(
        "A whole process: start Python, load ViT-B/32 (random weights, 605 MB of safetensors, in the page cache) in "
        "PyTorch, classify one 640-pixel JPEG among three labels. open_clip draws random weights instead of loading."
    ),
    data=("vit_b32", "photographs_640"),
    sides={
        "triclip": Side("triclip", "OURS", "process"),
        "triclip, mmap=True": Side("triclip", "MAPPED", "process"),
        "HF 5.23": Side("hf5", "HF", "process"),
        "HF 4.57": Side("hf4", "HF", "process"),
        "open_clip": Side("openclip", "OPEN_CLIP", "process"),
    },
    pairs=(
        Pair("triclip", "HF 5.23", at_most=0.55),
        Pair("triclip, mmap=True", "HF 5.23", at_most=0.55),
        Pair("triclip", "HF 5.23", at_most=0.85, of="peak"),
        Pair("triclip, mmap=True", "HF 5.23", at_most=0.85, of="peak"),
    ),
    check="same_probabilities",
    limits=(
        "Memory: Python with PyTorch imported is 235 MB, and the weights are 605 MB, which together are more than the "
        "goal of 780. With mmap=True the table of tokens (101 MB) is hardly read, which leaves 41 MB for all else. "
        "That is 62: 18 for the tokenizer, 17 for the pages of libraries that computing needs, the rest for the "
        "picture, its activations and the model's objects. transformers always maps the file; triclip does so only "
        "when asked, because cutting the file then ends the process."
    ),
    rounds=7,
)


def same_probabilities(results: dict[str, Any]) -> str:
    ours, want = results["triclip"], results["HF 4.57"]
    worst = max(abs(a - b) for a, b in zip(ours, want, strict=True))
    assert worst < 1e-5, worst
    newer = max(abs(a - b) for a, b in zip(ours, results["HF 5.23"], strict=True))
    return (
        f"probabilities differ from transformers 4.57's by at most {worst:.1e}, from 5.23's by {newer:.1e} (5.23's "
        f"default image processor resizes with torchvision)."
    )
