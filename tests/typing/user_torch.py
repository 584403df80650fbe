"""What a program writes with the PyTorch classes; read by type checkers, never run."""

from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from PIL import Image

from clip_torch import (
    BatchEncoding,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModel,
)

model = CLIPModel.from_pretrained("openai/clip-vit-base-patch32", torch_dtype=torch.float16)
assert_type(model, CLIPModel)
model = model.eval()
processor = CLIPProcessor.from_pretrained("openai/clip-vit-base-patch32")
assert_type(processor, CLIPProcessor)
batch = processor(text=["a cat"], images=Image.new("RGB", (8, 8)), return_tensors="pt", padding=True)
assert_type(batch, BatchEncoding)
outputs = model(**batch)
ids: torch.Tensor = batch["input_ids"]
features = model.get_text_features(ids)
assert_type(features, torch.Tensor)
norm: torch.Tensor = features.norm(dim=-1)

config = CLIPConfig.from_pretrained("folder")
assert_type(config, CLIPConfig)
width: int = config.projection_dim
fresh = CLIPModel(config)
fresh.save_pretrained(Path("folder"), safe_serialization=True)
fresh.resize_token_embeddings(50000)

text = CLIPTextModelWithProjection.from_pretrained("folder")
assert_type(text, CLIPTextModelWithProjection)
vision = CLIPVisionModel.from_pretrained("folder")
pixels = CLIPImageProcessor()(np.zeros((8, 8, 3), np.uint8), return_tensors="pt")["pixel_values"]
pooled = vision(pixels, output_hidden_states=True).pooler_output
tokenizer = CLIPTokenizer.from_pretrained("folder")
assert_type(tokenizer, CLIPTokenizer)
words: str = tokenizer.decode([1, 2])
