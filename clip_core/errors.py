"""The documented error types. Each subclasses the built-in type that callers of transformers catch."""

from importlib import import_module


class CheckpointError(ValueError):
    """A checkpoint that is damaged, hostile, incomplete, or of another architecture. The message names the file."""


class ConfigError(ValueError):
    """An impossible configuration value. The message names the key, what was wanted and what was found."""


class InputError(ValueError):
    """Text, ids or pictures that a model can't take. The message names the argument, what was wanted and found."""


class DataError(ValueError):
    """Training or evaluation data that can't be used. The message names the file, what was wanted and found."""


class ImageError(InputError, OSError):
    """A file or array that is not a usable picture. The message names it."""


class MissingDependencyError(ImportError):
    """A package that an optional format or backend needs. The message names the extra to install."""


def require(package: str, extra: str, *modules: str) -> None:
    """Import the frameworks that a backend is made of. Raises MissingDependencyError naming the extra that has them."""
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            missing = (error.name or module).partition(".")[0]
            raise MissingDependencyError(
                f"{package} needs {missing}, which is not installed: pip install 'triclip[{extra}]'", name=missing
            ) from error
