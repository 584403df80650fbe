"""The documented error types. Each subclasses the built-in type that callers of transformers catch."""


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
