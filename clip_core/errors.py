"""The documented error types. Each is also the built-in type a caller would already be catching."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged, hostile, incomplete, or of another architecture. The message names the file."""


class ConfigError(ValueError):
    """A configuration value that can't be. The message names the key, what was wanted and what was found."""


class InputError(ValueError):
    """Text, ids or pictures that a model can't take. The message names the argument, what was wanted and found."""


class DataError(ValueError):
    """Training or evaluation data that can't be used. The message names the file, what was wanted and found."""


class ImageError(InputError, OSError):
    """A file or array that is no usable picture. The message names it."""


class MissingDependencyError(ImportError):
    """A package that an optional format or backend needs. The message names the extra to install."""
