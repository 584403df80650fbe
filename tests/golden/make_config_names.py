"""Public names and parameters of v4.37's configs, read off the real classes.

    python tests/golden/make_config_names.py    # transformers 4.37.2

Writes tests/golden/config_names.json: class -> name -> parameters in order, or null for what isn't callable.
"""

import inspect
import json
from pathlib import Path

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PretrainedConfig

found = {}
for cls in (PretrainedConfig, CLIPConfig, CLIPTextConfig, CLIPVisionConfig):
    item = cls()
    names = {}
    for name in dir(item):
        if not name.startswith("_"):
            value = getattr(item, name)
            names[name] = (
                [str(p).partition(":")[0].partition("=")[0] for p in inspect.signature(value).parameters.values()]
                if callable(value)
                else None
            )
    found[cls.__name__] = names
Path(__file__).with_name("config_names.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
