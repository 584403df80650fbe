"""A name -> a local folder. Folders are used as they are; hub names go through `huggingface_hub` when it is installed.

Names of bundled models (`BUNDLED`) resolve to folders inside this package.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import MissingDependencyError

MODELS = Path(__file__).parent / "models"
DEFAULT_MODEL = "emoji"
BUNDLED = {"emoji": MODELS / "emoji", "triclip/emoji": MODELS / "emoji"}

# Keywords that say where a model is rather than what it is; every from_pretrained takes them.
HUB_ARGUMENTS = ("subfolder", "revision", "cache_dir", "local_files_only", "token")
# v4.37 keywords that change nothing here: downloads always resume, pickles are never executed, and so on.
ACCEPTED_ARGUMENTS = (
    "force_download",
    "resume_download",
    "proxies",
    "mirror",
    "user_agent",
    "use_auth_token",
    "trust_remote_code",
    "use_safetensors",
    "low_cpu_mem_usage",
    "from_pt",
    "from_tf",
    "from_flax",
    "_fast_init",
    "_from_auto",
    "_from_pipeline",
    "_commit_hash",
    "adapter_kwargs",
)

# Small files come along whenever a name is resolved; of the weights, the first of these that exists.
SMALL_FILES = ("*.json", "*.txt")
SIGNATURE_FILES = (
    "config.json",
    "open_clip_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "preprocessor_config.json",
    "processor_config.json",
)
WEIGHT_FILES = (
    ("model{v}.safetensors",),
    ("model{v}-*-of-*.safetensors",),
    ("model-*-of-*{v}.safetensors",),
    ("pytorch_model{v}.bin",),
    ("pytorch_model{v}-*-of-*.bin",),
    ("open_clip_model.safetensors",),
    ("open_clip_pytorch_model.bin",),
    ("flax_model.msgpack",),
    ("flax_model-*-of-*.msgpack",),
    ("tf_model.h5",),
    ("tf_model-*-of-*.h5",),
    ("model.weights.h5",),
)


def resolve_folder(
    name_or_path: str | os.PathLike,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    files: Iterable[str] = SMALL_FILES,
    weights: bool = False,
    variant: str | None = None,
) -> Path:
    """The local folder (or single file) of a model.

    Args:
        name_or_path: a folder, a file, a bundled model's name, or a hub name such as "openai/clip-vit-base-patch32".
        subfolder: a folder inside it.
        revision: branch, tag or commit on the hub; None means the main branch.
        cache_dir: where downloads are kept; None means huggingface_hub's own cache.
        local_files_only: use the cache and never the network.
        token: for private repositories.
        files: patterns of the small files to fetch from the hub.
        weights: fetch one set of weights too; `variant` chooses e.g. "fp16".

    Raises FileNotFoundError when there is no such model, MissingDependencyError when a hub name needs huggingface_hub.
    """
    if name_or_path is None:
        raise TypeError("name_or_path: wanted a folder, a file or a hub name, found None")
    path = Path(BUNDLED.get(str(name_or_path), name_or_path)).expanduser()
    if path.exists() or str(name_or_path) in BUNDLED:
        folder = path
    elif _looks_like_hub_name(str(name_or_path)):
        patterns = [_inside(subfolder, pattern) for pattern in files]
        where = {"revision": revision, "cache_dir": cache_dir, "token": token}
        folder = _download(str(name_or_path), subfolder, patterns, weights, variant, local_files_only, where)
    else:
        raise FileNotFoundError(f"{name_or_path}: no such folder or file, and not a hub name of the form owner/name")
    if subfolder:
        folder = folder / subfolder
        if not folder.is_dir():
            raise FileNotFoundError(f"{name_or_path}: subfolder {subfolder!r} does not exist")
    return folder


def resolve_file(name_or_path: str | os.PathLike, filename: str, **where: Any) -> Path:
    """One named file of a model; `name_or_path` may also be that file itself. `where`: HUB_ARGUMENTS."""
    folder = resolve_folder(name_or_path, **where)
    path = folder if folder.is_file() else folder / filename
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: wanted a file {filename}, found none")
    return path


def _looks_like_hub_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) is not None and ".." not in name


def _inside(subfolder: str | None, pattern: str) -> str:
    return f"{subfolder.strip('/')}/{pattern}" if subfolder else pattern


def _download(
    name: str,
    subfolder: str | None,
    patterns: list[str],
    weights: bool,
    variant: str | None,
    local_files_only: bool,
    where: dict[str, Any],
) -> Path:
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingDependencyError(
            f"{name}: no such local folder; a hub name needs huggingface_hub: pip install 'triclip[hub]'"
        ) from error
    if local_files_only or constants.HF_HUB_OFFLINE:
        return _cached(name, subfolder, where, "downloads are switched off")
    try:
        if weights:
            listed = HfApi().list_repo_files(name, revision=where["revision"], token=where["token"])
            patterns = patterns + _weight_patterns(listed, subfolder, variant)
        return Path(snapshot_download(name, allow_patterns=patterns, **where))
    except _network_errors() + (HfHubHTTPError, ValueError) as error:
        return _cached(name, subfolder, where, str(error))


def _cached(name: str, subfolder: str | None, where: dict[str, Any], reason: str) -> Path:
    """The folder of an earlier download, found by any of the small files that every model has one of."""
    from huggingface_hub import try_to_load_from_cache

    for file in SIGNATURE_FILES:
        inside = _inside(subfolder, file)
        found = try_to_load_from_cache(name, inside, cache_dir=where["cache_dir"], revision=where["revision"])
        if isinstance(found, str):
            return Path(found[: -len(inside)])
    raise FileNotFoundError(
        f"{name}: no such local folder, none in the cache, and not to be had from the hub: {reason}"
    )


def _network_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub lets through without a network: by its version, errors of requests (which are OSErrors)
    or of an httpx generation (which are not)."""
    clients = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return (OSError, *(client.HTTPError for client in clients))


def _weight_patterns(listed: list[str], subfolder: str | None, variant: str | None) -> list[str]:
    from fnmatch import fnmatchcase

    suffix = f".{variant}" if variant else ""
    for candidates in WEIGHT_FILES:
        patterns = [_inside(subfolder, pattern.format(v=suffix)) for pattern in candidates]
        if any(fnmatchcase(file, pattern) for file in listed for pattern in patterns):
            return patterns
    return []
