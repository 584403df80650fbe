"""Writes checkpoints/classifier/: a small CLIPForImageClassification by transformers 4.57.6, and what it computes.

    python make_classifier.py     where transformers 4.57.6 and torch can be imported

model.safetensors, config.json; outputs.npz: pixels, logits, and for each problem type its labels, loss and gradients.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPForImageClassification

FOLDER = Path(__file__).parent / "checkpoints" / "classifier"
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
GRADIENTS = ("classifier.weight", "classifier.bias", "vision_model.embeddings.class_embedding")


def main():
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {0: "cat", 1: "dog", 2: "bird"}
    names = {name: number for number, name in labels.items()}
    config = CLIPConfig(text_config=text, vision_config=VISION, id2label=labels, label2id=names)
    model = CLIPForImageClassification(config).eval()
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            value.data = 0.1 * torch.randn_like(value)
    model.save_pretrained(FOLDER)
    pixels = torch.randn(4, 3, 16, 16)
    stored = {"pixels": pixels.numpy(), "logits": model(pixels).logits.detach().numpy()}
    kinds = {
        "single_label_classification": torch.tensor([0, 2, -100, 1]),
        "multi_label_classification": torch.rand(4, 3).round(),
        "regression": torch.randn(4, 3),
    }
    for kind, wanted in kinds.items():
        model.config.problem_type = kind
        model.zero_grad()
        loss = model(pixels, labels=wanted).loss
        loss.backward()
        stored |= {f"{kind}:labels": wanted.numpy(), f"{kind}:loss": loss.detach().numpy()}
        stored |= {f"{kind}:{name}": model.get_parameter(name).grad.numpy().copy() for name in GRADIENTS}
    np.savez_compressed(FOLDER / "outputs.npz", **stored)


if __name__ == "__main__":
    main()
