"""Says which extra is missing where the framework is. Imported before anything that needs it."""

from clip_core.errors import require

require("clip_torch", "torch", "torch")
