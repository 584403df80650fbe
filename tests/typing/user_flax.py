"""What a program writes with the Flax classes; read by type checkers, never run."""

from typing import assert_type

import jax
import jax.numpy as jnp
from PIL import Image

from clip_flax import CLIPConfig, CLIPProcessor, FlaxCLIPModel, FlaxCLIPTextModel, FlaxCLIPVisionModel

model = FlaxCLIPModel.from_pretrained("openai/clip-vit-base-patch32", dtype=jnp.bfloat16)
assert_type(model, FlaxCLIPModel)
processor = CLIPProcessor.from_pretrained("openai/clip-vit-base-patch32")
batch = processor(text=["a cat"], images=Image.new("RGB", (8, 8)), return_tensors="jax", padding=True)
outputs = model(**batch, params=model.params)
features: jax.Array = model.get_image_features(batch["pixel_values"])
fresh = FlaxCLIPModel(CLIPConfig(), seed=1)
fresh.save_pretrained("folder")
text = FlaxCLIPTextModel.from_pretrained("folder")
assert_type(text, FlaxCLIPTextModel)
vision = FlaxCLIPVisionModel(CLIPConfig().vision_config)
