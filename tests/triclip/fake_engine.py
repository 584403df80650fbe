"""A training backend in NumPy: two linear maps over fixed features, so that the loop is tested without a framework.

`install(monkeypatch)` makes it backend "flax". It optimises the two projections and the logit scale with AdamW, on the
losses' definition; its checkpoints are folders that appear by a rename.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from clip_core import checkpoint
from conformance import losses_reference
from triclip.train.engine import Process
from triclip.train.schedule import ema_decay
from triclip.train.start import extra_parameters

IMAGE, TEXT = "visual_projection.weight", "text_projection.weight"
TRAINED = (IMAGE, TEXT, "logit_scale", "logit_bias")


def install(monkeypatch, engine=None, backend="flax"):
    module = SimpleNamespace(start=lambda config: Process(0, 1), Engine=engine or Engine)
    monkeypatch.setitem(sys.modules, f"triclip.train.engines.{backend}_.training", module)


class Engine:
    devices = 2

    def __init__(self, job):
        self.job, self.config, self.step = job, job.config, 0
        self.params = {name: np.array(value, np.float64) for name, value in extra_parameters(job).items()}
        for name in TRAINED[:3]:
            self.params[name] = np.array(job.weights[name], np.float64)
        self.moments = {name: [np.zeros_like(value), np.zeros_like(value)] for name, value in self.params.items()}
        self.average = {name: value.copy() for name, value in self.params.items()}
        rng = np.random.default_rng(7)
        vision, text = job.model_config.vision_config, job.model_config.text_config
        self.pixels = rng.normal(size=(3 * vision.image_size**2, vision.hidden_size)) / 20
        self.tokens = rng.normal(size=(text.vocab_size, text.hidden_size))
        self.stop, self.closed = False, False
        self.former = signal.signal(signal.SIGTERM, self._asked)

    def _asked(self, number, frame):
        self.stop = True

    # -- the model ----------------------------------------------------------------------------------------------------

    def _features(self, batch):
        ids = batch["input_ids"]
        return batch["pixel_values"].reshape(len(ids), -1) @ self.pixels, self.tokens[ids].mean(1)

    def _loss(self, x, y):
        t = float(self.params["logit_scale"])
        if self.config.loss.kind == "sigmoid":
            return losses_reference.sigmoid(x, y, t, float(self.params["logit_bias"]))
        return losses_reference.softmax(x, y, t, self.config.loss.label_smoothing)

    def train_step(self, batch, lr):
        images, texts = self._features(batch)
        x, by_x = unit(images @ self.params[IMAGE].T)
        y, by_y = unit(texts @ self.params[TEXT].T)
        loss = self._loss(x, y)
        gradients = {IMAGE: by_x(loss.dx).T @ images, TEXT: by_y(loss.dy).T @ texts, "logit_scale": loss.dt}
        if "logit_bias" in self.params:
            gradients["logit_bias"] = loss.db
        norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in gradients.values()))
        self._update(gradients, lr)
        self.step += 1
        figures = {"loss": loss.value, "logit_scale": np.exp(self.params["logit_scale"]), "grad_norm": norm}
        return figures | ({"logit_bias": self.params["logit_bias"]} if "logit_bias" in self.params else {})

    def _update(self, gradients, lr):
        section, count = self.config.optimizer, self.step + 1
        for name, gradient in gradients.items():
            rule, moments = self.job.rules[name], self.moments[name]
            for place, (beta, value) in enumerate(zip(section.betas, (gradient, gradient**2), strict=True)):
                moments[place] = beta * moments[place] + (1 - beta) * value
            first, second = (m / (1 - beta**count) for m, beta in zip(moments, section.betas, strict=True))
            decay = section.weight_decay * self.params[name] if rule.decay else 0
            self.params[name] = self.params[name] - lr * (first / (np.sqrt(second) + section.eps) + decay)
        self.params["logit_scale"] = np.clip(self.params["logit_scale"], 0, section.max_logit_scale)
        if self.config.ema is not None:
            d = ema_decay(self.config.ema, self.step)
            self.average = {name: d * old + (1 - d) * self.params[name] for name, old in self.average.items()}

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @property
    def folder(self):
        return Path(self.config.output) / "checkpoints"

    def save(self, data_state):
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        arrays = {f"p:{name}": value for name, value in self.params.items()}
        arrays |= {f"a:{name}": value for name, value in self.average.items()}
        arrays |= {f"{place}:{name}": m for name, both in self.moments.items() for place, m in enumerate(both)}
        np.savez(draft / "state.npz", **arrays)
        (draft / "data.json").write_text(json.dumps(data_state))
        os.rename(draft, self.folder / str(self.step))
        for old in self.numbers()[: -self.config.checkpoint.keep]:
            shutil.rmtree(self.folder / str(old))

    def numbers(self):
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*")) if self.folder.is_dir() else []

    def restore(self):
        if not self.numbers():
            return None
        self.step = self.numbers()[-1]
        newest = self.folder / str(self.step)
        with np.load(newest / "state.npz") as arrays:
            for name in self.params:
                self.params[name], self.average[name] = arrays[f"p:{name}"], arrays[f"a:{name}"]
                self.moments[name] = [arrays[f"0:{name}"], arrays[f"1:{name}"]]
        return json.loads((newest / "data.json").read_text())

    def wait(self):
        pass

    def stopping(self):
        return self.stop

    # -- what comes out -----------------------------------------------------------------------------------------------

    def image_features(self, pixel_values):
        return unit(pixel_values.reshape(len(pixel_values), -1) @ self.pixels @ self.current[IMAGE].T)[0]

    def text_features(self, input_ids):
        return unit(self.tokens[input_ids].mean(1) @ self.current[TEXT].T)[0]

    @property
    def current(self):
        return self.params if self.config.ema is None else self.average

    def gather(self, rows):
        return rows

    def weights(self, average):
        own = self.average if average else self.params
        return {**self.job.weights, **{name: np.asarray(value, np.float32) for name, value in own.items()}}

    def export(self, folder, average):
        weights = {name: value for name, value in self.weights(average).items() if name != "logit_bias"}
        checkpoint.save(folder, weights, self.job.model_config.to_diff_dict())

    def close(self):
        signal.signal(signal.SIGTERM, self.former)
        self.closed = True


def unit(rows):
    """Rows of unit length as float32-free numbers, and the way back of their gradients."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    out = rows / length
    return out, lambda d: (d - out * (out * d).sum(1, keepdims=True)) / length
