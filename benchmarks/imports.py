"""How long `import clip_core` and `triclip --help` take, interpreter included."""

from __future__ import annotations

from benchmarks.harness import Pair, Row, Side

PYTHON = "pass"
IMPORT = "import clip_core"
EVERYTHING = "import clip_core; [getattr(clip_core, name) for name in clip_core.__all__]"
HELP = "import sys; sys.argv = ['triclip', '--help']; from triclip.command import main; main()"
TRANSFORMERS = "from transformers import CLIPConfig, CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast"
ROW = Row(
    title="Imports",
    about=(
        "Whole processes, Python's own start included. `import clip_core` imports names on first use; the next figure "
        "uses all of them: tokenizers, image processor, configs, pipeline. transformers imports its counterparts."
    ),
    sides={
        "python, nothing imported": Side("triclip", "PYTHON", "process"),
        "import clip_core": Side("triclip", "IMPORT", "process"),
        "import clip_core, all public names": Side("triclip", "EVERYTHING", "process"),
        "triclip --help": Side("triclip", "HELP", "process"),
        "transformers 5.23, CLIP without model": Side("hf5", "TRANSFORMERS", "process"),
    },
    pairs=(
        Pair("import clip_core", None, at_most=0.25),
        Pair("import clip_core, all public names", None, at_most=0.25),
        Pair("triclip --help", None, at_most=0.35),
    ),
    rounds=7,
    budget=30,
)
