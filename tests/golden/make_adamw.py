"""tests/golden/training/adamw.npz: steps of torch.optim.AdamW, the meaning of the optimiser section.

Made with torch 2.13.0 (CPU): python tests/golden/make_adamw.py. Five steps of two groups, one with decay, at rates that
change; epsilon is so large that its place in the formula shows; gradients clipped to a global norm of 1.
"""

from pathlib import Path

import numpy as np
import torch

RATES = [0.0, 0.1, 0.2, 0.15, 0.05]
EPS, DECAY, BETAS, CLIP = 0.03, 0.2, (0.9, 0.98), 1.0
SHAPES = {"decayed": (4, 3), "plain": (5,)}


def main() -> None:
    random = np.random.default_rng(0)
    arrays = {"rates": np.array(RATES), "eps": EPS, "weight_decay": DECAY, "betas": np.array(BETAS), "clip_norm": CLIP}
    parameters = {}
    for name, shape in SHAPES.items():
        arrays[f"{name}.begin"] = random.standard_normal(shape, np.float32)
        arrays[f"{name}.gradients"] = random.standard_normal((len(RATES), *shape), np.float32) / 3
        parameters[name] = torch.nn.Parameter(torch.tensor(arrays[f"{name}.begin"], dtype=torch.float64))
    groups = [
        {"params": [parameters["decayed"]], "weight_decay": DECAY},
        {"params": [parameters["plain"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPS)
    values: dict[str, list[np.ndarray]] = {name: [] for name in SHAPES}
    norms = []
    for i, rate in enumerate(RATES):
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(arrays[f"{name}.gradients"][i], dtype=torch.float64)
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for name, parameter in parameters.items():
            values[name].append(parameter.detach().numpy().copy())
    for name, steps in values.items():
        arrays[f"{name}.values"] = np.stack(steps)
    path = Path(__file__).parent / "training" / "adamw.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, norms=np.array(norms), **arrays)
    print(path, norms)


if __name__ == "__main__":
    main()
