"""What a program writes with the Keras classes; read by type checkers, never run."""

from typing import assert_type

from PIL import Image

from clip_tf import CLIPConfig, CLIPProcessor, TFCLIPModel, TFCLIPTextModel, TFCLIPVisionModelWithProjection

model = TFCLIPModel.from_pretrained("openai/clip-vit-base-patch32")
assert_type(model, TFCLIPModel)
processor = CLIPProcessor.from_pretrained("openai/clip-vit-base-patch32")
batch = processor(text=["a cat"], images=Image.new("RGB", (8, 8)), return_tensors="tf", padding=True)
outputs = model(**batch)
logits = outputs.logits_per_image
fresh = TFCLIPModel(CLIPConfig())
fresh.save_pretrained("folder")
features = model.get_text_features(batch["input_ids"])
text = TFCLIPTextModel.from_pretrained("folder", from_pt=True)
assert_type(text, TFCLIPTextModel)
vision = TFCLIPVisionModelWithProjection.from_pretrained("folder")
assert_type(vision, TFCLIPVisionModelWithProjection)
