"""The memory of the contrastive loss with its gradients, per device, by compile-time analysis without a run.

    python -m conformance.training.flax_memory                   # the table of docs/training.md, as JSON
    python -m conformance.training.flax_memory ring 32768 65536  # one mode, both kinds of loss

Rows [N, 512] in float32 on eight devices (simulated: the compiler's plan is what counts). "temporary" is what comes on
top of inputs and gradients.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clip_flax.loss import contrastive_loss
from triclip.train.config import MeshSection
from triclip.train.engines.flax_.sharding import AXES, make_mesh

WIDTH, DEVICES, CHUNK = 512, 8, 1024
COUNTS = (32768, 131072, 262144, 1048576)
MODES = ("dense", "chunked", "ring")


def compiled(mesh: Mesh, count: int, mode: str, kind: str = "softmax") -> Any:
    rows = jax.ShapeDtypeStruct((count, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P(AXES)))
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, P()))

    def loss(x: Any, y: Any, t: Any, b: Any) -> jax.Array:
        return contrastive_loss(x, y, t, b, kind=kind, mode=mode, chunk=CHUNK, mesh=mesh)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    return step.lower(rows, rows, number, number).compile()


def entry(mesh: Mesh, count: int, mode: str, kind: str = "softmax") -> dict[str, Any]:
    """temporary: bytes per device. elements: of the program's largest buffer. gathers: whether rows of all devices
    come together on one."""
    program = compiled(mesh, count, mode, kind)
    text = program.as_text()
    shapes = re.findall(r"\b[a-z]+[0-9]+\[([0-9,]+)\]", text)
    largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
    temporary = program.memory_analysis().temp_size_in_bytes
    return {"temporary": temporary, "elements": largest, "gathers": "all-gather" in text}


def table(modes: Sequence[str], counts: Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
    jax.config.update("jax_num_cpu_devices", DEVICES)
    mesh = make_mesh(MeshSection())
    entries = {
        kind: {mode: {str(count): entry(mesh, count, mode, kind) for count in counts} for mode in modes}
        for kind in kinds
    }
    return {"width": WIDTH, "devices": DEVICES, "chunk": CHUNK, **entries}


def main() -> None:
    if len(sys.argv) > 1:
        found = table(sys.argv[1:2], [int(count) for count in sys.argv[2:]], ("softmax", "sigmoid"))
    else:
        found = table(MODES, COUNTS, ("softmax",))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
