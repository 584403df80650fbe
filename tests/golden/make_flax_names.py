"""Make tests/golden/flax/names.json: the public names of transformers 4.37.2's Flax classes, less Linen's own.

    HF_HUB_OFFLINE=1 python tests/golden/make_flax_names.py

Private names that its users' code relies on stand in `PRIVATE`.
"""

from __future__ import annotations

import json
from pathlib import Path

from flax import linen as nn
from transformers import FlaxPreTrainedModel
from transformers.models.clip import modeling_flax_clip

PRIVATE = ("_from_config", "_missing_keys")


def main() -> None:
    classes = {name: cls for name, cls in vars(modeling_flax_clip).items() if name.startswith("Flax")}
    classes["FlaxPreTrainedModel"] = FlaxPreTrainedModel
    names = {
        name: [n for n in dir(cls) if (n[0] != "_" or n in PRIVATE) and n not in dir(nn.Module)]
        for name, cls in sorted(classes.items())
    }
    path = Path(__file__).parent / "flax" / "names.json"
    path.write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
