"""Names the extra to install if the framework is missing. Imported before anything that needs it."""

from clip_core.errors import require

require("clip_flax", "flax", "jax", "flax")
