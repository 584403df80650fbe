"""Files and names of v4.37's TF classes, written by the real library: transformers 4.37.2 on TensorFlow 2.15.

    python tests/golden/make_tf.py        # in an environment with transformers==4.37.2 tensorflow-cpu==2.15.1

Written into tests/golden/tf: head.h5 (a subclass of TFCLIPVisionModel with a Dense layer, `save_pretrained`), full.h5
(TFCLIPModel, `save_weights`), outputs.npz (what the two compute) and names.json (the public names of the classes that
Keras' own model lacks). The config is CONFIG in both.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from transformers import CLIPConfig, TFCLIPModel, TFCLIPTextModel, TFCLIPVisionModel

OUT = Path(__file__).parent / "tf"
SMALL = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = {
    "projection_dim": 6,
    "text_config": {"vocab_size": 30, "max_position_embeddings": 7, "eos_token_id": 29, "bos_token_id": 28, **SMALL},
    "vision_config": {"image_size": 8, "patch_size": 4, **SMALL},
}
IDS = [[28, 3, 4, 29], [28, 5, 29, 29]]


class WithHead(TFCLIPVisionModel):
    def __init__(self, config, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        self.classifier = tf.keras.layers.Dense(3, name="classifier", bias_initializer="normal")

    def call(self, pixel_values=None, training=False, **kwargs):
        return self.classifier(self.clip(pixel_values=pixel_values, training=training).pooler_output)


def main() -> None:
    tf.keras.utils.set_random_seed(5)
    OUT.mkdir(exist_ok=True)
    config = CLIPConfig(**CONFIG)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    head, full = WithHead(config.vision_config), TFCLIPModel(config)
    full.build_in_name_scope()
    for weight in full.weights:  # biases too
        weight.assign_add(tf.random.normal(weight.shape, stddev=0.1))
    found = {"pixel_values": pixels, "classes": head(pixel_values=tf.constant(pixels)).numpy()}
    out = full(input_ids=tf.constant(IDS), pixel_values=tf.constant(pixels), return_loss=True)
    found |= {"loss": out.loss.numpy(), "logits": out.logits_per_image.numpy()}
    with tempfile.TemporaryDirectory() as folder:
        head.save_pretrained(folder)
        shutil.copy(Path(folder) / "tf_model.h5", OUT / "head.h5")
    full.save_weights(OUT / "full.h5")
    np.savez(OUT / "outputs.npz", **found)
    names = {}
    for cls, part in (
        (TFCLIPModel, config),
        (TFCLIPTextModel, config.text_config),
        (TFCLIPVisionModel, config.vision_config),
    ):
        model = cls(part)
        names[cls.__name__] = sorted(n for n in set(dir(model)) - set(dir(tf.keras.Model())) if n[0] != "_")
    (OUT / "names.json").write_text(json.dumps(names, indent=1) + "\n")


if __name__ == "__main__":
    main()
