"""The start of a run: the model's config, its weights as NumPy arrays, its processor, without a framework.

Weights come from a checkpoint of any readable layout, or are drawn from the seed, each name from its own stream: the
same bytes for every backend, order and number of processes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clip_core.config import CLIPConfig
from clip_core.errors import CheckpointError, ConfigError
from clip_core.init import initial_values
from clip_core.interpolate import bicubic_matrix
from clip_core.weights import check, in_scope, is_resnet, weight_table

from .config import TrainConfig
from .engine import Job
from .rules import parameter_rules

_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_SIGMOID_SCALE = math.log(10)  # SigLIP's initial values: t = ln 10, b = -10
_SIGMOID_BIAS = -10.0
REPORT = "training.json"  # beside an exported model: values that are not part of a CLIP checkpoint
_ANCHOR_DEVIATION = 0.05


def prepare(config: TrainConfig, samples: int = 0) -> Job:
    """The Job of a checked configuration. Weights are read on access.

    `samples`: size of the training set, for the anchors.

    Raises FileNotFoundError, CheckpointError, ConfigError naming file or key.
    """
    saved = None
    if config.model.init is not None:
        model_config, weights, saved = _from_checkpoint(config)
    else:
        model_config, weights = _fresh(config)
    if is_resnet(model_config):
        key = "model.config" if config.model.init is None else f"model.init: {config.model.init}"
        raise ConfigError(
            f"{key}: wanted a ViT vision tower, found OpenAI's ResNet: a run here moves no batch norm's running "
            "statistics. Train it in a loop of your own: PyTorch's and Keras' move them by themselves"
        )
    bias = _first_bias(config, saved)
    return Job(config, model_config, weights, parameter_rules(model_config, config), samples, bias)


def _first_bias(config: TrainConfig, saved: float | None) -> float:
    """The sigmoid's initial bias: configured, from the weights of `model.init` (open_clip's have it), from the run that
    exported that model, or SigLIP's."""
    if config.loss.logit_bias is not None:
        return config.loss.logit_bias
    if config.loss.kind != "sigmoid" or config.model.init is None:
        return _SIGMOID_BIAS
    if saved is not None:
        return saved
    from clip_core.hub import resolve_folder

    path = resolve_folder(str(config.model.init))
    report = (path if path.is_dir() else path.parent) / REPORT
    try:
        found = json.loads(report.read_text("utf-8")).get("logit_bias", _SIGMOID_BIAS)
        return float(found)
    except FileNotFoundError:
        return _SIGMOID_BIAS
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{report}: wanted a number logit_bias in a JSON object, found none ({error})") from error


def fingerprint(job: Job) -> str:
    """A digest of the initial weights, or of the values that determine them."""
    digest = hashlib.blake2b(digest_size=12)
    if isinstance(job.weights, _Fresh):
        digest.update(job.weights.described().encode())
    else:
        for name in sorted(job.weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(job.weights[name]).tobytes())
    if "logit_bias" in job.rules:
        digest.update(repr(job.logit_bias).encode())
    return digest.hexdigest()


def extra_parameters(job: Job) -> dict[str, np.ndarray]:
    """Initial values of parameters beside the model: "logit_bias" [] and "anchors" [samples, P], if configured."""
    extra: dict[str, np.ndarray] = {}
    if "logit_bias" in job.rules:
        extra["logit_bias"] = np.array(job.logit_bias, np.float32)
    if "anchors" in job.rules:
        shape = (job.samples, job.model_config.projection_dim)
        extra["anchors"] = draw(job.config.seed, "anchors", shape, _ANCHOR_DEVIATION)
    return extra


def load_processor(config: TrainConfig, model_config: Any) -> Any:
    """The run's CLIPProcessor: the vocabulary of `model.tokenizer` or the checkpoint, pictures of the model's size.

    Raises ConfigError if the vocabulary doesn't fit the model, FileNotFoundError.
    """
    from clip_core.image.processor import CLIPImageProcessor
    from clip_core.processor import CLIPProcessor
    from clip_core.text.tokenizer import CLIPTokenizerFast

    from ..pipeline import load_processor as load

    section, size = config.model, model_config.vision_config.image_size
    tokenizer = None if section.tokenizer is None else CLIPTokenizerFast.from_pretrained(section.tokenizer)
    image_processor = None
    if section.init is not None:
        if tokenizer is None:
            both = load(section.init, model_config)
            tokenizer, image_processor = both.tokenizer, both.image_processor
        else:
            image_processor = _saved_image_processor(section.init)
    if tokenizer is None:
        tokenizer = CLIPTokenizerFast()
    settings = {} if image_processor is None else image_processor.to_dict()
    for key in ("image_processor_type", "processor_class", "feature_extractor_type"):
        settings.pop(key, None)
    settings |= {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    _check_vocabulary(config, model_config, tokenizer)
    return CLIPProcessor(CLIPImageProcessor(**settings), tokenizer)


def _saved_image_processor(name: str) -> Any:
    from clip_core.hub import resolve_folder
    from clip_core.image.processor import CLIPImageProcessor

    folder = resolve_folder(name)
    has = folder.is_dir() and any(
        (folder / file).is_file() for file in ("preprocessor_config.json", "processor_config.json")
    )
    return CLIPImageProcessor.from_pretrained(folder) if has else None


def _check_vocabulary(config: TrainConfig, model_config: Any, tokenizer: Any) -> None:
    text = model_config.text_config
    largest = max(tokenizer.get_vocab().values(), default=-1)
    name = config.model.tokenizer or config.model.init or "OpenAI's vocabulary"
    if largest >= text.vocab_size:
        raise ConfigError(
            f"model.tokenizer: wanted ids below the model's vocab_size {text.vocab_size}, found {largest} in {name}"
        )
    # Legacy configs (eos_token_id 2) pool at the highest id, which is the end token.
    pools_at = largest if text.eos_token_id == 2 else text.eos_token_id
    if tokenizer.eos_token_id != pools_at:
        raise ConfigError(
            f"model.tokenizer: wanted the end token to have id {pools_at}, at which the model pools "
            f"(text_config.eos_token_id {text.eos_token_id}), found {tokenizer.eos_token_id} in {name}"
        )


# -- weights of a checkpoint ------------------------------------------------------------------------------------------


class _Lazy(Mapping[str, np.ndarray]):
    """Canonical name -> float32 array, read at every access."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name].astype("float32").numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _from_checkpoint(config: TrainConfig) -> tuple[CLIPConfig, Mapping[str, np.ndarray], float | None]:
    """The model's config, its weights, and the sigmoid's bias if the checkpoint has it."""
    from clip_core import checkpoint
    from clip_core.hub import resolve_folder

    path = resolve_folder(str(config.model.init), weights=True)
    read = checkpoint.load(path, scope="full")
    for note in read.notes:
        logging.getLogger("triclip").warning("%s: %s", path, note)
    if read.config is None or "text_config" not in read.config and read.config.get("model_type") != "clip":
        kind = None if read.config is None else read.config.get("model_type")
        raise CheckpointError(f"{path}: wanted a full CLIP model to train, found {kind or 'no config.json'}")
    model_config = CLIPConfig.from_dict(read.config)
    tensors = {name: tensor for name, tensor in read.tensors.items() if not name.startswith("classifier.")}
    bias = tensors.pop("logit_bias", None)
    table = weight_table(model_config)
    check(tensors, table, str(path))
    tensors = {name: tensors[name] for name in table}
    if config.model.image_size is not None:
        model_config, tensors = _resized(model_config, tensors, config.model.image_size)
    if config.loss.logit_scale is not None:
        tensors["logit_scale"] = checkpoint.Tensor.from_numpy(np.array(config.loss.logit_scale, np.float32))
    return model_config, _Lazy(tensors), None if bias is None else float(bias.astype("float32").numpy().reshape(()))


def _resized(model_config: CLIPConfig, tensors: dict[str, Any], size: int) -> tuple[CLIPConfig, dict[str, Any]]:
    """Config and tensors for another picture size: resampled grid of positions, unchanged class position."""
    vision = model_config.vision_config
    old, new = vision.image_size // vision.patch_size, size // vision.patch_size
    resized = with_image_size(model_config, size)
    if old == new:
        return resized, tensors
    from clip_core.checkpoint import Tensor

    source = tensors[_POSITIONS].astype("float32")
    shape = (new * new + 1, vision.hidden_size)
    tensors = {**tensors, _POSITIONS: Tensor("float32", shape, lambda: resample_positions(source.numpy(), old, new))}
    return resized, tensors


def with_image_size(model_config: CLIPConfig, size: int) -> CLIPConfig:
    """A copy for pictures of `size` x `size`. Raises ConfigError if no patch fits."""
    resized = copy.deepcopy(model_config)
    resized.vision_config.image_size = size
    try:
        resized.validate()
    except ConfigError as error:
        raise ConfigError(f"model.image_size: {error}") from error
    return resized


def resample_positions(table: np.ndarray, old: int, new: int) -> np.ndarray:
    """[1 + old * old, D] -> [1 + new * new, D], bicubic; the rule of `interpolate_pos_encoding`, in float32."""
    grid = table[1:].reshape(old, old, -1)  # [h, w, D]
    matrix = bicubic_matrix(old, new)
    grid = np.einsum("ah,hwd,bw->abd", matrix, grid, matrix, optimize=True).astype(np.float32)
    return np.concatenate([table[:1], grid.reshape(new * new, -1)])


# -- fresh weights ----------------------------------------------------------------------------------------------------


class _Fresh(Mapping[str, np.ndarray]):
    """Canonical name -> float32 array, drawn at every access."""

    def __init__(self, config: CLIPConfig, seed: int) -> None:
        self._table, self._values, self._seed = weight_table(config), initial_values(config), seed

    def __getitem__(self, name: str) -> np.ndarray:
        kind, value = self._values[name]
        shape = self._table[name].shape
        if kind == "constant":
            return np.full(shape, value, np.float32)
        return draw(self._seed, name, shape, value)

    def described(self) -> str:
        """The inputs that determine all values."""
        shapes = {name: weight.shape for name, weight in self._table.items()}
        return json.dumps([self._seed, shapes, dict(self._values)], sort_keys=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def draw(seed: int, name: str, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    """Normal float32 numbers around 0, determined by the run's seed and the parameter's name."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4")
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words.tolist()])))
    return generator.standard_normal(shape, np.float32) * np.float32(deviation)


def _fresh(config: TrainConfig) -> tuple[CLIPConfig, Mapping[str, np.ndarray]]:
    given, source = config.model.config, "model.config"
    try:
        if isinstance(given, str):
            source = f"model.config: {given}"
            model_config = CLIPConfig.from_pretrained(given)
        elif isinstance(given, CLIPConfig):
            model_config = copy.deepcopy(given)
        else:
            model_config = CLIPConfig(**given)
        model_config.validate()
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{source}: {error}") from error
    if config.model.image_size is not None:
        model_config = with_image_size(model_config, config.model.image_size)
    if config.loss.logit_scale is not None:
        model_config.logit_scale_init_value = config.loss.logit_scale
    elif config.loss.kind == "sigmoid":
        model_config.logit_scale_init_value = _SIGMOID_SCALE
    return model_config, _Fresh(model_config, config.seed)


def is_model_parameter(name: str) -> bool:
    """Whether a trained parameter belongs to the exported model (anchors and the sigmoid's bias don't)."""
    return in_scope(name, "full")
