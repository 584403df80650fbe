"""Names resolved to local folders, and folders uploaded, through `huggingface_hub` for hub names.

Folders are used as they are. Names of bundled models (`BUNDLED`) resolve to folders inside this package.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import MissingDependencyError

MODELS = Path(__file__).parent / "models"
DEFAULT_MODEL = "emoji"
BUNDLED = {"emoji": MODELS / "emoji", "triclip/emoji": MODELS / "emoji"}

# Keywords that locate a model; every from_pretrained takes them.
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

# A resolved name fetches all small files, and of the weights the first of these that exists.
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
    elif is_hub_name(str(name_or_path)):
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


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of a hub name: "name" or "owner/name"."""
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
    """The folder of an earlier download, found by any small file of which every model has at least one."""
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
    """Errors that huggingface_hub raises without a network: by its version those of requests (OSErrors) or of httpx
    (which are not)."""
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


# ---- uploading ----

# Upload destinations among the keywords of v4.37's `save_pretrained(push_to_hub=True)` and `push_to_hub`.
UPLOAD_ARGUMENTS = ("repo_id", "commit_message", "commit_description", "private", "create_pr", "revision", "tags")
_DEPRECATED_UPLOAD_ARGUMENTS = ("use_auth_token", "repo_url", "organization", "repo_path_or_name")


def upload_arguments(
    kwargs: dict[str, Any], save_directory: str | os.PathLike, others: Iterable[str] = ()
) -> dict[str, Any]:
    """The upload options in `save_pretrained(**kwargs)`, as keywords of `push_to_hub`.

    Args:
        kwargs: the keywords that are not parameters of `save_pretrained`.
        save_directory: its last part is the default of `repo_id`.
        others: further keywords that the caller accepts.

    `use_auth_token`, `repo_url`, `organization` and `repo_path_or_name`, which v4.37 deprecates, are used with a
    FutureWarning. Raises TypeError for any other keyword, ValueError for two keywords with one meaning.
    """
    known = (*UPLOAD_ARGUMENTS, *_DEPRECATED_UPLOAD_ARGUMENTS, "token", "ignore_metadata_errors", *others)
    for name in kwargs:
        if name not in known:
            raise TypeError(f"save_pretrained() got an unexpected keyword argument {name!r}")
    found = {name: kwargs[name] for name in (*UPLOAD_ARGUMENTS, "token") if kwargs.get(name) is not None}
    for old in _DEPRECATED_UPLOAD_ARGUMENTS:
        value = kwargs.get(old)
        if value is None:
            continue
        new = "token" if old == "use_auth_token" else "repo_id"
        warnings.warn(f"{old} is deprecated: use {new}", FutureWarning, stacklevel=3)
        if old == "organization":
            name = str(found.get("repo_id", Path(save_directory).name)).rpartition("/")[2]
            found["repo_id"] = f"{value}/{name}"
            continue
        if new in found:
            raise ValueError(f"{old}, {new}: wanted one of the two, found both")
        found[new] = "/".join(str(value).rstrip("/").split("/")[-2:]) if old == "repo_url" else value
    found.setdefault("repo_id", Path(save_directory).name)
    return found


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    files: Iterable[str] | None = None,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    tags: list[str] | None = None,
) -> Any:
    """Upload a folder's files in one commit; a missing repository is created.

    Args:
        folder: where the files are.
        repo_id: "owner/name", or "name" for the token's owner.
        files: their names in the folder; default every file, hidden ones left out.
        commit_message: default "Upload files".
        private: visibility of a new repository.
        token: default the one that huggingface_hub has stored.
        create_pr: open a pull request instead of committing.
        revision: the branch, created if missing; default main.
        tags: added to the model card's metadata.

    Returns:
        huggingface_hub's CommitInfo. Its errors (no permission, no network) are passed on.

    Raises MissingDependencyError without huggingface_hub.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise MissingDependencyError("push_to_hub needs huggingface_hub: pip install 'triclip[hub]'") from error
    folder = Path(folder)
    if files is None:
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        files = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    api = HfApi(token=token)
    repo_id = str(api.create_repo(repo_id, private=private, exist_ok=True).repo_id)
    operations = [CommitOperationAdd(name, str(folder / name)) for name in sorted(set(files))]
    if tags:
        operations.append(CommitOperationAdd("README.md", _tagged_card(repo_id, tags, token)))
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message or "Upload files",
        commit_description=commit_description,
        create_pr=create_pr,
        revision=revision,
    )


def _tagged_card(repo_id: str, tags: list[str], token: str | bool | None) -> bytes:
    """The repository's model card, or an empty one, with these tags added."""
    from huggingface_hub import ModelCard, ModelCardData
    from huggingface_hub.errors import EntryNotFoundError

    try:
        card = ModelCard.load(repo_id, token=token if isinstance(token, str) else None)
    except (EntryNotFoundError, FileNotFoundError):
        card = ModelCard(f"---\n{ModelCardData(library_name='transformers').to_yaml()}\n---\n")
    known = list(card.data.tags or [])
    card.data.tags = known + [tag for tag in tags if tag not in known]
    return str(card).encode("utf-8")


class PushToHub:
    """`push_to_hub`, which v4.37 gives to every class with `save_pretrained`."""

    save_pretrained: Any

    def push_to_hub(
        self,
        repo_id: str,
        use_temp_dir: bool | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        max_shard_size: int | str | None = "5GB",
        create_pr: bool = False,
        safe_serialization: bool = True,
        revision: str | None = None,
        commit_description: str | None = None,
        tags: list[str] | None = None,
        **deprecated_kwargs: Any,
    ) -> Any:
        """Save to a folder and upload it; see `clip_core.hub.push_to_hub`.

        Args:
            use_temp_dir: True saves into a temporary folder; False into a local folder of the repository's name, whose
                files are all uploaded. Default: False if there is such a folder.
            commit_message: default "Upload tokenizer", "Upload processor", "Upload model" or "Upload config".
            max_shard_size, safe_serialization: of models, as in `save_pretrained`.
            **deprecated_kwargs: `use_auth_token`, `repo_url`, `organization`, `repo_path_or_name`.

        Returns huggingface_hub's CommitInfo.
        """
        import tempfile

        given = {
            "repo_id": repo_id,
            "commit_message": commit_message or upload_message(self),
            "private": private,
            "token": token,
            "create_pr": create_pr or None,
            "revision": revision,
            "commit_description": commit_description,
            "tags": tags,
        }
        upload = upload_arguments({**given, **deprecated_kwargs}, str(repo_id))
        working = Path(str(upload["repo_id"]).rpartition("/")[2])
        parameters = inspect.signature(self.save_pretrained).parameters
        how = {"max_shard_size": max_shard_size, "safe_serialization": safe_serialization}
        how = {name: value for name, value in how.items() if name in parameters}
        if not (use_temp_dir if use_temp_dir is not None else not working.is_dir()):
            self.save_pretrained(working, **how)
            return push_to_hub(working, **upload)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **how)
            return push_to_hub(folder, **upload)


def upload_message(uploaded: Any) -> str:
    """v4.37's commit message for an object, by its class's name."""
    name = type(uploaded).__name__
    for part, what in (
        ("Model", "model"),
        ("Config", "config"),
        ("Tokenizer", "tokenizer"),
        ("Processor", "processor"),
    ):
        if part in name:
            return f"Upload {what}"
    return f"Upload {name}"
