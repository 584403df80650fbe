"""Training in Keras 3 on TensorFlow: `tf.distribute` over replicas, one traced step. See `triclip.train.engine`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from clip_core.errors import ConfigError
from clip_tf.bridge import without_drawing
from clip_tf.layers import at_least_float32
from clip_tf.loss import anchor_loss, contrastive_loss
from clip_tf.modeling import TFCLIPModel
from clip_tf.shortcuts import pooled

from ...config import TrainConfig
from ...engine import Batch, Job, Process
from ...newest import load_newest
from ...start import extra_parameters
from ...stop import StopSignals
from .checkpointing import Checkpoints
from .distribution import find_group
from .optimizer import AdamW

HEADS = ("logit_scale", "logit_bias", "anchors")  # parameters of the loss; all others belong to the towers


def start(config: TrainConfig) -> Process:
    """Join the group of processes described by TF_CONFIG or TPU_NAME, or use this machine's devices.

    Must precede other uses of TensorFlow in a run of several processes. Raises ConfigError, with both numbers, if
    `mesh.data` wants more devices than there are.
    """
    return find_group(config.mesh).process


class Engine:
    """See `triclip.train.engine.Engine`. One process's part of the run; variables are mirrored on all replicas."""

    def __init__(self, job: Job) -> None:
        self.step = 0
        self._config, self._group = job.config, find_group(job.config.mesh)
        self.devices = self._group.replicas
        self._check_batch()
        self._seeds = _Seeds(job.config.seed)
        with self._group.strategy.scope():
            self._model = self._new_model(job)
            extras = {name: tf.Variable(value) for name, value in extra_parameters(job).items()}
            self._parameters = self._named(self._model, extras)
            for name in job.weights:
                self._assign(self._parameters[name], job.weights[name])
            self._average, self._averages = self._model, {}
            if job.config.ema is not None:
                self._average = self._new_model(job)
                copies = {name: tf.Variable(value, trainable=False) for name, value in extra_parameters(job).items()}
                self._averages = self._named(self._average, copies)
                for name in job.weights:
                    self._assign(self._averages[name], job.weights[name])
            self._trained = {n: v for n, (v, _) in self._parameters.items() if job.rules[n].trainable}
            averages = {name: self._averages[name][0] for name in self._trained if name in self._averages}
            self._optimizer = AdamW(job.config.optimizer, self._trained, averages, job.rules, job.config.ema)
        first = self._group.process.index == 0
        self._checkpoints = Checkpoints(Path(job.config.output) / "checkpoints", job.config.checkpoint.keep, first)
        self._train = tf.function(self._whole_step, autograph=False)
        self._features = {
            "pixel_values": tf.function(self._image_rows, autograph=False, reduce_retracing=True),
            "input_ids": tf.function(self._text_rows, autograph=False, reduce_retracing=True),
        }
        self._listen()

    # -- construction -------------------------------------------------------------------------------------------------

    def _check_batch(self) -> None:
        parts = self._group.replicas * self._config.accumulate
        if self._config.data.batch_size % parts:
            raise ConfigError(
                f"data.batch_size: wanted a multiple of {parts} ({self._group.replicas} devices, each in "
                f"{self._config.accumulate} parts), found {self._config.data.batch_size}"
            )

    def _new_model(self, job: Job) -> TFCLIPModel:
        with without_drawing():
            model = TFCLIPModel(job.model_config, dtype=self._policy())
        if job.config.model.gradient_checkpointing != "none":
            model.gradient_checkpointing_enable()
        for tower in (model.vision_model, model.text_model):
            tower.encoder.seeds = self._seeds
        return model

    def _policy(self) -> str:
        half = self._config.precision == "bf16"
        if self._config.precision == "auto":
            half = bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))
        return "mixed_bfloat16" if half else "float32"

    def _named(self, model: TFCLIPModel, extras: Mapping[str, tf.Variable]) -> dict[str, tuple[tf.Variable, Any]]:
        """Canonical name -> TensorFlow's own variable, and the permutation from the canonical axes to its."""
        own = {name: (variable.value, axes) for name, (variable, axes) in model._variables_by_name().items()}
        return {**own, **{name: (variable, None) for name, variable in extras.items()}}

    @staticmethod
    def _assign(target: tuple[tf.Variable, Any], array: np.ndarray) -> None:
        variable, axes = target
        variable.assign(np.transpose(array, axes) if axes else array)

    @staticmethod
    def _array(source: tuple[tf.Variable, Any]) -> np.ndarray:
        """The whole value in the canonical layout, which the next step does not change: it writes to new buffers."""
        variable, axes = source
        array = variable.numpy()
        return np.ascontiguousarray(np.transpose(array, np.argsort(axes))) if axes else array

    # -- the step -----------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, lr: float) -> Mapping[str, Any]:
        """See the protocol. Loss and gradients are those before the step, logit_scale and logit_bias those after it."""
        rows = {name: batch[name] for name in ("pixel_values", "input_ids", "patches", "sample") if name in batch}
        numbers = {"stop": np.array(self._stop.asked, np.int32), "step": np.array(self.step, np.int32)}
        inputs = self._group.feed({**rows, **numbers})
        metrics = self._train(inputs, tf.constant(self._optimizer.scalars(lr, self.step)))
        self._votes = [*self._votes[-1:], metrics.pop("stop")]
        self.step += 1
        return metrics

    def _whole_step(self, inputs: dict[str, Any], scalars: tf.Tensor) -> dict[str, tf.Tensor]:
        strategy = self._group.strategy
        metrics = strategy.run(self._replica_step, args=(inputs, scalars))
        metrics = {name: strategy.experimental_local_results(value)[0] for name, value in metrics.items()}
        ends = {name: self._parameters[name][0] for name in ("logit_scale", "logit_bias") if name in self._parameters}
        return {**metrics, **{n: tf.exp(x) if n == "logit_scale" else tf.identity(x) for n, x in ends.items()}}

    def _replica_step(self, inputs: dict[str, tf.Tensor], scalars: tf.Tensor) -> dict[str, tf.Tensor]:
        context = tf.distribute.get_replica_context()
        loss, gradients = self._loss_and_gradients(inputs)
        norm, gradients = self._optimizer.clipped(context.all_reduce("SUM", gradients))
        context.merge_call(self._optimizer.update, args=(gradients, tf.unstack(scalars)))
        stop = context.all_reduce("SUM", tf.identity(inputs["stop"]))  # an argument has no device
        return {"loss": context.all_reduce("SUM", loss), "grad_norm": norm, "stop": stop}

    def _loss_and_gradients(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """This replica's shares of the loss and of the gradients of `self._trained`. In a replica context."""
        if self._config.accumulate > 1:
            return self._in_parts(inputs)
        with tf.GradientTape(watch_accessed_variables=False) as tape:  # locked towers keep no activations
            tape.watch(list(self._trained.values()))
            loss = self._loss(*self._embed(inputs, 0), inputs)
        gradients = tape.gradient(loss, list(self._trained.values()), unconnected_gradients="zero")
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _in_parts(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """As `_loss_and_gradients` with one part's activations at a time: embeddings, loss, then each part again."""
        count = self._config.accumulate
        parts = {n: tf.reshape(x, (count, -1, *x.shape[1:])) for n, x in inputs.items() if x.shape.rank}
        towers = {name: v for name, v in self._trained.items() if name not in HEADS}
        heads = {name: v for name, v in self._trained.items() if name in HEADS}
        part = lambda i: {**inputs, **{name: x[i] for name, x in parts.items()}}  # noqa: E731
        image, text = tf.map_fn(
            lambda i: self._embed(part(i), i),
            tf.range(count),
            parallel_iterations=1,
            fn_output_signature=(tf.float32, tf.float32),
        )
        width = image.shape[-1]
        image, text = tf.reshape(image, (-1, width)), tf.reshape(text, (-1, width))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([image, text, *heads.values()])
            loss = self._loss(image, text, inputs)
        d_image, d_text, *d_heads = tape.gradient(loss, [image, text, *heads.values()], unconnected_gradients="zero")
        d_image, d_text = tf.reshape(d_image, (count, -1, width)), tf.reshape(d_text, (count, -1, width))

        def add_part(i: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(list(towers.values()))
                rows = self._embed(part(i), i)
            found = tape.gradient(rows, list(towers.values()), (d_image[i], d_text[i]), unconnected_gradients="zero")
            return i + 1, *(total + tf.convert_to_tensor(x) for total, x in zip(sums, found, strict=True))

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in towers.values()]
        _, *d_towers = tf.while_loop(lambda i, *_: i < count, add_part, (tf.constant(0), *zeros), parallel_iterations=1)
        found = {**dict(zip(towers, d_towers, strict=True)), **dict(zip(heads, d_heads, strict=True))}
        return loss, [tf.convert_to_tensor(found[name]) for name in self._trained]

    def _embed(self, inputs: dict[str, tf.Tensor], part: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Unit rows [n, P] of images and texts."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        self._seeds.begin(inputs["step"], replica * self._config.accumulate + part)
        image = self._image(self._model, inputs["pixel_values"], inputs.get("patches"), training=True)
        return image, self._text(self._model, inputs["input_ids"], training=True)

    def _image(self, model: TFCLIPModel, pixel_values: tf.Tensor, patches: Any, training: bool) -> tf.Tensor:
        """Unit rows [b, P], float32."""
        chosen = {} if patches is None else {"patches": patches}
        return _unit(model.visual_projection(pooled(model.vision_model, training, pixel_values=pixel_values, **chosen)))

    def _text(self, model: TFCLIPModel, input_ids: tf.Tensor, training: bool) -> tf.Tensor:
        return _unit(model.text_projection(pooled(model.text_model, training, input_ids=input_ids)))

    def _loss(self, image: tf.Tensor, text: tf.Tensor, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """This replica's share, from its rows [n, P]."""
        section, parameters = self._config.loss, self._parameters
        loss = contrastive_loss(
            image,
            text,
            parameters["logit_scale"][0],
            parameters["logit_bias"][0] if section.kind == "sigmoid" else None,
            kind=section.kind,
            mode=section.mode,
            chunk=section.chunk,
            label_smoothing=section.label_smoothing,
        )
        if section.anchors is not None:
            anchors = _unit(parameters["anchors"][0]), inputs["sample"], section.anchors.scale, section.label_smoothing
            for rows, weight in ((image, section.anchors.image_weight), (text, section.anchors.text_weight)):
                loss += weight * anchor_loss(rows, *anchors)
        return loss

    # -- features -----------------------------------------------------------------------------------------------------

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """See the protocol: [b, C, h, w] -> unit rows [b, P], float32."""
        return self._rows("pixel_values", pixel_values)

    def text_features(self, input_ids: np.ndarray) -> np.ndarray:
        """See the protocol: [b, S] -> unit rows [b, P], float32."""
        return self._rows("input_ids", input_ids)

    def _rows(self, name: str, array: np.ndarray) -> np.ndarray:
        count, replicas = len(array), self._group.local_replicas
        if count == 0:
            return np.zeros((0, self._model.projection_dim), np.float32)
        filled = np.concatenate([array, np.repeat(array[:1], -count % replicas, axis=0)])
        return self._group.fetch(self._features[name](self._group.feed({name: filled})))[:count]

    def _image_rows(self, inputs: dict[str, Any]) -> Any:
        run = lambda rows: self._image(self._average, rows["pixel_values"], None, training=False)  # noqa: E731
        return self._group.strategy.run(run, args=(inputs,))

    def _text_rows(self, inputs: dict[str, Any]) -> Any:
        run = lambda rows: self._text(self._average, rows["input_ids"], training=False)  # noqa: E731
        return self._group.strategy.run(run, args=(inputs,))

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """See the protocol."""
        return self._group.gather(rows)

    # -- state --------------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, tuple[tf.Variable, Any]]:
        """The state by its names in checkpoints, with locked parameters included as a check."""
        state = {f"parameters.{name}": value for name, value in self._parameters.items()}
        state |= {f"averages.{name}": value for name, value in self._averages.items()}
        for kind in ("first", "second"):
            moments = getattr(self._optimizer, kind).items()
            state |= {f"{kind}.{name}": (variable, self._parameters[name][1]) for name, variable in moments}
        return state

    def save(self, data_state: Mapping[str, Any]) -> None:
        """See the protocol. Values are copied to the host; a thread of the first process writes them."""
        arrays = {}
        if self._checkpoints.writes:
            arrays = {name: self._array(source) for name, source in self._state().items()}
        self._checkpoints.save(self.step, arrays, {"step": self.step, "data": dict(data_state)})

    def restore(self) -> Mapping[str, Any] | None:
        """See the protocol."""
        return load_newest(self._checkpoints.steps(), self._load, self.gather, self._group.process.index == 0)

    def _load(self, step: int) -> Mapping[str, Any]:
        state = self._state()
        shapes = {name: _canonical_shape(source) for name, source in state.items()}
        tensors, saved = self._checkpoints.read(step, shapes)
        for name, target in state.items():
            self._assign(target, tensors[name].numpy())
        self.step = step
        return saved["data"]

    def wait(self) -> None:
        """See the protocol. Every process raises when the first one could not write."""
        error: OSError | None = None
        try:
            self._checkpoints.wait()
        except OSError as found:
            error = found
        if self._group.gather(np.array([error is not None])).any():
            raise error or OSError(f"{self._checkpoints.folder}: the first process could not write a checkpoint there")

    def weights(self, average: bool) -> Mapping[str, np.ndarray]:
        """See the protocol."""
        source = self._averages if average and self._averages else self._parameters
        return {name: self._array(value) for name, value in source.items()}

    def export(self, folder: Path, average: bool) -> None:
        """See the protocol."""
        model = self._average if average else self._model
        model.save_pretrained(folder, safe_serialization=True, is_main_process=self._group.process.index == 0)
        self._group.barrier()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Listen for SIGTERM and Ctrl-C, which end the run through `stopping`."""
        self._stop = StopSignals()
        self._votes: list[tf.Tensor] = []  # for the last two steps, the number of processes that got a signal

    def stopping(self) -> bool:
        """See the protocol. With several processes the requests are part of the steps and take effect one step later,
        because waiting for a running step would be slow. Between steps they are gathered."""
        if self._group.process.count == 1:
            return self._stop.asked
        if len(self._votes) < 2:
            return bool(self._group.gather(np.array([self._stop.asked])).any())
        return int(self._votes.pop(0)) > 0

    def close(self) -> None:
        """See the protocol."""
        self._stop.close()
        self.wait()
        self._checkpoints.close()


class _Seeds:
    """Replaces an encoder's generator: dropout seeds from only the run's seed, the step and the rows.

    There is no state to save, and a recomputed part drops the same weights.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def begin(self, step: tf.Tensor, rows: tf.Tensor) -> None:
        """Called before rows are embedded; `rows` are their numbers in the step."""
        run = tf.random.experimental.stateless_fold_in(tf.constant([self._seed, 0], tf.int32), step)
        self._base, self._drawn = tf.random.experimental.stateless_fold_in(run, rows), 0

    def next(self) -> tf.Tensor:
        """A new seed [2] at every call."""
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self._base, self._drawn)


def _unit(rows: tf.Tensor) -> tf.Tensor:
    rows = at_least_float32(rows)
    return rows / tf.norm(rows, axis=-1, keepdims=True)


def _canonical_shape(source: tuple[tf.Variable, Any]) -> tuple[int, ...]:
    variable, axes = source
    return tuple(variable.shape[i] for i in (np.argsort(axes) if axes else range(variable.shape.rank)))
