"""`load_config`: a run's configuration from YAML, TOML or JSON, with overrides; every key is checked.

The schema is the dataclasses of `config.py`: names and types are taken from them, ranges from `checks.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clip_core.errors import ConfigError, MissingDependencyError

from . import checks
from .config import TrainConfig
from .labels import IMAGENET

# Keys with paths; relative ones are resolved from the folder of their file.
_PATHS = (
    "output",
    "compile_cache",
    "model.config",
    "model.tokenizer",
    "data.train",
    "data.index",
    "evaluate.retrieval",
    "evaluate.zero_shot",
    "evaluate.labels",
)
_NAMES_OR_PATHS = ("model.init",)  # a hub name or "emoji" unless such a path exists
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SUFFIXES = (".yaml", ".yml", ".toml", ".json")


def load_config(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> TrainConfig:
    """Read and check a configuration.

    Args:
        path: a YAML (.yaml, .yml), TOML (.toml) or JSON (.json) file. Its relative paths are resolved from its folder.
        overrides: "dotted.key=value", with the value as in YAML; they win over the file. Their relative paths are
            resolved from the working directory, as on the command line.

    A number may be written as 1e-4, which YAML itself reads as a string; a single string is accepted for a list.

    Raises FileNotFoundError; ConfigError naming file (or override) and key, what was wanted and what was found.
    """
    source = Path(path)
    values = _absolute(read_mapping(source), os.path.abspath(source.parent))
    origins: dict[str, str] = {}
    for override in overrides:
        key, value = parse_override(override)
        _put(values, key, _absolute_value(key, value, os.getcwd()), override)
        origins[key] = f"override {override!r}"
    builder = _Builder(str(source), origins)
    config = builder.section(TrainConfig, "", values)
    checks.check(config, builder.where)
    return config


def validate(config: TrainConfig) -> TrainConfig:
    """Check a configuration built in Python, as `load_config` does; returns a checked copy.

    Raises TypeError for anything but a TrainConfig, ConfigError naming the key.
    """
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config: wanted a TrainConfig, found {type(config).__name__}")
    builder = _Builder("TrainConfig", {})
    checked = builder.section(TrainConfig, "", _values(config))
    checks.check(checked, builder.where)
    return checked


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The whole configuration as plain values, as in a file."""
    return dataclasses.asdict(config)


def _values(section: Any) -> dict[str, Any]:
    # Not dataclasses.asdict, which would deep-copy invalid values before they are refused.
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}


# -- reading ----------------------------------------------------------------------------------------------------------


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a configuration file, unchecked. Raises ConfigError if it is not a mapping."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such configuration file")
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path}: wanted a file that ends in {', '.join(_SUFFIXES)}, found {path.suffix or 'none'!r}")
    try:
        text = path.read_text(encoding="utf-8")
        found = _toml(text) if path.suffix.lower() == ".toml" else _yaml(text)
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad syntax, unlimited nesting
        raise ConfigError(f"{path}: wanted {path.suffix[1:].upper()}, found what does not parse: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: wanted keys and values, found {_describe(found)}")
    return found


def _toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "YAML needs pyyaml, which is not installed: pip install 'triclip[train]'"
        ) from error

    class Loader(yaml.SafeLoader):
        """Refuses duplicate keys, of which YAML readers silently drop the first."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            seen = set()
            for key_node, _ in node.value:
                key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
                if key in seen and key != "<<":
                    raise ValueError(f"the key {key!r} stands twice (line {key_node.start_mark.line + 1})")
                seen.add(key)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def parse_override(override: str) -> tuple[str, Any]:
    """ "optimizer.lr=1e-4" -> ("optimizer.lr", "1e-4"). Raises ConfigError naming the override."""
    if not isinstance(override, str):
        raise TypeError(f"overrides: wanted texts of the form key=value, found {override!r}")
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"override {override!r}: wanted dotted.key=value")
    hint, text = _hint_at(key), text.strip()
    if _optional(hint) is not None and text.lower() in ("", "none", "null", "~"):
        return key, None
    if str in (hint, _optional(hint)):
        return key, text  # a name may look like a number
    try:
        return key, _yaml(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"override {override!r}: the value does not parse as YAML: {error}") from error


def _put(values: dict[str, Any], key: str, value: Any, override: str) -> None:
    """Set a dotted key in nested mappings; missing ones are made."""
    *path, last = key.split(".")
    for name in path:
        inner = values.get(name)
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {name} holds no keys but {_describe(inner)}")
        values[name] = inner = dict(inner)
        values = inner
    values[last] = value


def _absolute(values: dict[str, Any], folder: str, prefix: str = "") -> dict[str, Any]:
    """A copy with relative paths resolved from `folder`."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_section = isinstance(value, dict) and key not in _PATHS
        out[name] = _absolute(value, folder, f"{key}.") if is_section else _absolute_value(key, value, folder)
    return out


def _absolute_value(key: str, value: Any, folder: str) -> Any:
    if isinstance(value, list):
        return [_absolute_value(key, item, folder) for item in value]
    if not isinstance(value, str) or not value or key not in _PATHS + _NAMES_OR_PATHS or "://" in value:
        return value
    if (key, value) in (("evaluate.labels", IMAGENET), ("data.index", "auto")):  # names, not paths
        return value
    joined = os.path.abspath(os.path.join(folder, os.path.expanduser(value)))
    if key in _NAMES_OR_PATHS and not (value.startswith((".", "~")) or os.path.exists(joined)):
        return value
    return joined


# -- building ---------------------------------------------------------------------------------------------------------


class _Builder:
    """Mappings to dataclasses. `source` names the file in errors, `origins` the overrides of single keys."""

    def __init__(self, source: str, origins: Mapping[str, str]) -> None:
        self.source, self.origins = source, origins

    def where(self, key: str) -> str:
        """ "run.yaml: optimizer.lr", or the override that set the key, a section of it or a part of it."""
        for given, origin in self.origins.items():
            if f"{key}.".startswith(f"{given}.") or f"{given}.".startswith(f"{key}."):
                return f"{origin}: {key}"
        return f"{self.source}: {key}"

    def section(self, cls: type, prefix: str, values: Mapping[Any, Any]) -> Any:
        hints = typing.get_type_hints(cls)
        for name in values:
            if name not in hints:
                self._unknown(prefix, name, list(hints))
        given = {name: self.value(hints[name], f"{prefix}{name}", value) for name, value in values.items()}
        return cls(**given)

    def _unknown(self, prefix: str, name: Any, known: list[str]) -> typing.NoReturn:
        near = difflib.get_close_matches(str(name), known, 1)
        elsewhere = [key for key in _all_keys() if key.rsplit(".", 1)[-1] == name]
        hint = near[0] if near else ""
        found = f"{prefix}{hint}" if hint else (elsewhere[0] if elsewhere else "")
        advice = f"; did you mean {found}?" if found else f"; wanted one of {', '.join(known)}"
        raise ConfigError(f"{self.where(f'{prefix}{name}')}: there is no such key{advice}")

    def value(self, hint: Any, key: str, value: Any) -> Any:
        if hint is Any:
            return value
        inner = _optional(hint)
        if inner is not None:
            return None if value is None else self.value(inner, key, value)
        if dataclasses.is_dataclass(hint):
            return self._section_value(typing.cast(type, hint), key, value)
        if isinstance(hint, types.UnionType):  # a list of names, or the names as keys of sections
            names, sections = typing.get_args(hint)
            if not isinstance(value, Mapping):
                return self._list(typing.get_args(names)[0], key, value)
            section = typing.get_args(sections)[1]
            return {str(name): self._section_value(section, f"{key}.{name}", inner) for name, inner in value.items()}
        if typing.get_origin(hint) is list:
            return self._list(typing.get_args(hint)[0], key, value)
        return self._scalar(hint, key, value)

    def _section_value(self, cls: type, key: str, value: Any) -> Any:
        if isinstance(value, cls):
            value = _values(value)
        if value is None:  # a section with all keys commented out
            value = {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.where(key)}: wanted keys and values, found {_describe(value)}")
        return self.section(cls, f"{key}.", value)

    def _list(self, item: Any, key: str, value: Any) -> list:
        if isinstance(value, str) and item is str:
            value = [value]
        if value is None:
            value = []
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{self.where(key)}: wanted a list, found {_describe(value)}")
        return [self._scalar(item, key, entry) for entry in value]

    def _scalar(self, kind: type, key: str, value: Any) -> Any:
        wanted = {str: "a text", int: "an integer", float: "a finite number", bool: "true or false"}[kind]
        found = value
        if kind is float:
            found = _as_float(value)
        elif kind is str and isinstance(value, os.PathLike):
            found = os.fspath(value)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            raise ConfigError(f"{self.where(key)}: wanted {wanted}, found {_describe(value)}")
        return found


def _as_float(value: Any) -> float | None:
    """A finite number, also as the string "1e-4" from YAML; None for anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _describe(value: Any) -> str:
    names = {dict: "keys and values", list: "a list", type(None): "nothing"}
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return names.get(type(value), text) if not isinstance(value, list | dict) else f"{names[type(value)]}, {text}"


def _optional(hint: Any) -> Any:
    """X of `X | None`; None for other hints."""
    arguments = typing.get_args(hint)
    return arguments[0] if len(arguments) == 2 and arguments[1] is type(None) else None


def _hint_at(key: str) -> Any:
    """The type of a dotted key; None for an unknown key."""
    hint: Any = TrainConfig
    for name in key.split("."):
        hint = _optional(hint) or hint
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    return hint


def _all_keys(cls: type = TrainConfig, prefix: str = "") -> list[str]:
    keys = []
    for name, hint in typing.get_type_hints(cls).items():
        inner = _optional(hint) or hint
        keys.append(f"{prefix}{name}")
        if dataclasses.is_dataclass(inner):
            keys += _all_keys(typing.cast(type, inner), f"{prefix}{name}.")
    return keys
