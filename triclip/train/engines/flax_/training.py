"""Training with JAX: one compiled step over a mesh of devices, in one process or many. See `triclip.train.engine`.

Parameters are a flat dict, canonical name -> array in Flax's layout, so that rules, shardings and checkpoints use
names. B rows of the global batch, P projection.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clip_core.checkpoint.dialects import FLAX
from clip_core.checkpoint.ops import OPS
from clip_core.checkpoint.tensor import Tensor
from clip_core.errors import ConfigError
from clip_core.weights import weight_table
from clip_flax import loss
from clip_flax.bridge import to_jax
from clip_flax.modeling import FlaxCLIPModel, FlaxCLIPModule, normalize
from clip_flax.pooling import pooled

from ...config import TrainConfig
from ...engine import Batch, Job, Process, Rule
from ...schedule import ema_decay
from ...start import extra_parameters
from . import processes, sharding
from .checkpointing import Checkpoints

Params = dict[str, jax.Array]
State = dict[str, Any]
Key = jax.Array | None

# Steps queued on the devices while the host prepares more; each keeps its batch in device memory.
AHEAD = 2

# What `model.gradient_checkpointing` keeps of a layer: nothing, or the results of its matrix products with weights
# (those of the attention, which grow with the square of the sequence, are recomputed).
REMAT = {"none": False, "full": True, "dots": "dots_with_no_batch_dims_saveable"}


def start(config: TrainConfig) -> Process:
    """Join the group of processes if there is one, and check `mesh` against the devices.

    Nothing may have been computed with JAX before. Raises ConfigError with both numbers of devices.
    """
    if config.compile_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(config.compile_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    process = processes.join()
    _check_batch(config, sharding.make_mesh(config.mesh))
    return process


def _check_batch(config: TrainConfig, mesh: Mesh) -> None:
    unit = mesh.size * config.accumulate
    if config.data.batch_size % unit:
        parts = f" x accumulate {config.accumulate}" if config.accumulate > 1 else ""
        raise ConfigError(
            f"data.batch_size: wanted a multiple of {unit} ({mesh.size} devices{parts}), found {config.data.batch_size}"
        )


class Network:
    """The pure functions of a run: embeddings, loss, gradients.

    params: canonical name -> array, with "logit_bias" and "anchors" if the run has them.
    """

    def __init__(self, job: Job, mesh: Mesh) -> None:
        self.config, self.mesh = job.config, mesh
        self.bf16 = _computes_in_bf16(job.config)
        self.module = FlaxCLIPModule(
            job.model_config,
            jnp.bfloat16 if self.bf16 else jnp.float32,
            gradient_checkpointing=REMAT[job.config.model.gradient_checkpointing],
        )
        self.layouts = layouts(job.model_config)
        towers = job.model_config.text_config, job.model_config.vision_config
        self.drops = any(tower.attention_dropout > 0 for tower in towers)
        self.locked = {name for name, rule in job.rules.items() if not rule.trainable}

    def images(
        self, params: Params, pixel_values: jax.Array, patches: jax.Array | None = None, key: Key = None
    ) -> jax.Array:
        """[B, C, h, w] -> unit rows [B, P] float32. key: of dropout; None for none."""

        def embed(module: FlaxCLIPModule) -> jax.Array:
            pixels = jnp.transpose(pixel_values, (0, 2, 3, 1))
            chosen = {} if patches is None else {"patches": patches}
            inputs = {"pixel_values": pixels, "deterministic": key is None, **chosen}
            return module.visual_projection(pooled(module.vision_model, **inputs))

        return self._unit(params, embed, key)

    def texts(self, params: Params, input_ids: jax.Array, key: Key = None) -> jax.Array:
        """[B, S] -> unit rows [B, P] float32. key: of dropout; None for none."""

        def embed(module: FlaxCLIPModule) -> jax.Array:
            return module.text_projection(pooled(module.text_model, input_ids=input_ids, deterministic=key is None))

        return self._unit(params, embed, key)

    def _unit(self, params: Params, embed: Any, key: Key) -> jax.Array:
        tree = unflatten_dict({path: params[name] for name, (path, _) in self.layouts.items()})
        rngs = {} if key is None else {"dropout": key}
        return normalize(self.module.apply({"params": tree}, rngs=rngs, method=embed).astype(jnp.float32))

    def embed(self, params: Params, part: Mapping[str, jax.Array], key: Key) -> tuple[jax.Array, jax.Array]:
        for_images, for_texts = (None, None) if key is None else jax.random.split(key)
        images = self.images(params, part["pixel_values"], part.get("patches"), for_images)
        return images, self.texts(params, part["input_ids"], for_texts)

    def features(self, params: Params, kind: str, rows: jax.Array) -> jax.Array:
        """Unit rows [B, P] of "pixel_values" or "input_ids"."""
        params, rows = self._use(params), self._constrain(rows, P(("data", "fsdp")))
        return self.images(params, rows) if kind == "pixel_values" else self.texts(params, rows)

    def pair_loss(self, x: jax.Array, y: jax.Array, params: Params, sample: jax.Array | None) -> jax.Array:
        """The loss of unit rows x, y [B, P]."""
        section = self.config.loss
        # "high" on accelerators: TF32, or three bfloat16 products. A single bfloat16 product loses digits at s=100.
        precision = lax.Precision.HIGH if self.bf16 else lax.Precision.HIGHEST
        value = loss.contrastive_loss(
            x, y, params["logit_scale"], params.get("logit_bias"), kind=section.kind, mode=section.mode,
            chunk=section.chunk, label_smoothing=section.label_smoothing,
            mesh=self.mesh if self.mesh.size > 1 else None, precision=precision,
        )  # fmt: skip
        anchors = section.anchors
        if anchors is not None:
            table = normalize(params["anchors"])
            against = functools.partial(
                loss.anchor_loss, anchors=table, sample=sample, scale=anchors.scale,
                label_smoothing=section.label_smoothing, precision=precision,
            )  # fmt: skip
            value = value + anchors.image_weight * against(x) + anchors.text_weight * against(y)
        return value

    def gradients(
        self, params: Params, batch: Mapping[str, jax.Array], step: jax.Array | int = 0
    ) -> tuple[jax.Array, Params]:
        """The loss of the global batch, and its gradients with respect to the trainable parameters.

        Dropout, if the model has any, depends only on the run's seed and the step, so it is independent of the devices
        and has no state to save.
        """
        key = jax.random.fold_in(jax.random.key(self.config.seed), step) if self.drops else None
        locked = {name: lax.stop_gradient(value) for name, value in params.items() if name in self.locked}
        trainable = {name: value for name, value in params.items() if name not in self.locked}
        with jax.default_matmul_precision("default" if self.bf16 else "highest"):
            if self.config.accumulate == 1:
                return jax.value_and_grad(lambda own: self._whole(self._use(own | locked), batch, key))(trainable)
            return self._in_parts(trainable, locked, batch, key)

    def _whole(self, params: Params, batch: Mapping[str, jax.Array], key: Key) -> jax.Array:
        x, y = self.embed(params, self._constrain(batch, P(("data", "fsdp"))), key)
        return self.pair_loss(x, y, params, batch.get("sample"))

    def _in_parts(
        self, trainable: Params, locked: Params, batch: Mapping[str, jax.Array], key: Key
    ) -> tuple[jax.Array, Params]:
        """Gradient caching: embeddings of every part without residuals, the loss over all of them, then each part again
        with the gradient of its embeddings. Exact, because the loss is over the whole batch."""
        parts = {name: self._split(rows) for name, rows in batch.items() if name != "sample"}  # [k, B / k, …]
        keys = None if key is None else jax.random.split(key, self.config.accumulate)

        def embed(own: Params, part: Any) -> tuple[jax.Array, jax.Array]:
            return self.embed(self._use(own | locked), *part)

        def whole(x: jax.Array, y: jax.Array, own: Params) -> jax.Array:
            return self.pair_loss(self._join(x), self._join(y), own | locked, batch.get("sample"))

        def add(gradients: Params, step: Any) -> tuple[Params, None]:
            part, cotangents = step
            _, pull = jax.vjp(lambda own: embed(own, part), trainable)
            return jax.tree.map(jnp.add, gradients, pull(cotangents)[0]), None

        x, y = lax.map(lambda part: embed(trainable, part), (parts, keys))
        value, (dx, dy, gradients) = jax.value_and_grad(whole, argnums=(0, 1, 2))(x, y, trainable)
        gradients, _ = lax.scan(add, gradients, ((parts, keys), (dx, dy)))
        return value, gradients

    def _split(self, rows: jax.Array) -> jax.Array:
        """[B, …] -> [k, B / k, …]: each device's rows in k pieces, so that no row moves."""
        devices, k = self.mesh.shape["data"] * self.mesh.shape["fsdp"], self.config.accumulate
        rows = self._constrain(rows, P(("data", "fsdp")))
        pieces = rows.reshape(devices, k, -1, *rows.shape[1:]).swapaxes(0, 1)
        return self._constrain(pieces.reshape(k, -1, *rows.shape[1:]), P(None, ("data", "fsdp")))

    def _join(self, parts: jax.Array) -> jax.Array:
        """The inverse of `_split`."""
        devices = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        rows = parts.reshape(parts.shape[0], devices, -1, *parts.shape[2:]).swapaxes(0, 1)
        return self._constrain(rows.reshape(-1, *parts.shape[2:]), P(("data", "fsdp")))

    def _use(self, params: Params) -> Params:
        """Parameters gathered along `fsdp` for use. Otherwise the compiler might shard activations."""
        specs = {name: sharding.parameter_spec(name, value.shape, self.mesh) for name, value in params.items()}
        return {name: self._constrain(value, sharding.for_computing(specs[name])) for name, value in params.items()}

    def _constrain(self, tree: Any, spec: P) -> Any:
        return lax.with_sharding_constraint(tree, NamedSharding(self.mesh, spec))


def _computes_in_bf16(config: TrainConfig) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and jax.default_backend() != "cpu")


def layouts(model_config: Any) -> dict[str, tuple[tuple[str, ...], str]]:
    """Canonical name -> (path in the parameters' tree, operation to Flax's layout)."""
    found = {}
    for name, row in weight_table(model_config).items():
        path, op = FLAX.foreign(name, row)
        found[name] = tuple(path.split(".")), op
    return found


class Optimizer:
    """AdamW over a flat dict, by the rules; the rate is an argument of every step, so that nothing recompiles."""

    def __init__(self, config: TrainConfig, rules: Mapping[str, Rule]) -> None:
        section = config.optimizer
        self.rules = {name: rule for name, rule in rules.items() if rule.trainable}
        self.highest = section.max_logit_scale
        self.transform = optax.chain(
            optax.identity() if section.clip_norm is None else optax.clip_by_global_norm(section.clip_norm),
            optax.scale_by_adam(*section.betas, eps=section.eps),
            optax.add_decayed_weights(section.weight_decay, {name: rule.decay for name, rule in self.rules.items()}),
        )

    def init(self, params: Params) -> Any:
        return self.transform.init(self.trainable(params))

    def trainable(self, params: Params) -> Params:
        return {name: params[name] for name in self.rules}

    def update(self, gradients: Params, moments: Any, params: Params, rate: jax.Array) -> tuple[Params, Any]:
        """(all parameters after the step, moments)."""
        updates, moments = self.transform.update(gradients, moments, self.trainable(params))
        changed = {name: params[name] - rate * rule.lr_scale * updates[name] for name, rule in self.rules.items()}
        if "logit_scale" in changed:
            changed["logit_scale"] = jnp.clip(changed["logit_scale"], 0, self.highest)
        return params | changed, moments


class Engine:
    """See `triclip.train.engine.Engine`, whose docstrings apply."""

    def __init__(self, job: Job) -> None:
        self.job, self.config, self.step = job, job.config, 0
        self.mesh = sharding.make_mesh(job.config.mesh)
        self.devices = self.mesh.size
        _check_batch(job.config, self.mesh)
        self.network = Network(job, self.mesh)
        self.optimizer = Optimizer(job.config, job.rules)
        self._rows, self._same = sharding.batch_sharding(self.mesh), sharding.replicated(self.mesh)
        params = self._placed(initial_parameters(job, self.network.layouts))
        self._shardings = self._state_shardings(params)
        self.state = jax.jit(self._fresh_state, out_shardings=self._shardings, donate_argnums=0)(params)
        self._train = jax.jit(
            self._step,
            in_shardings=(self._shardings, self._rows, self._same, self._same),
            out_shardings=(self._shardings, self._same),
            donate_argnums=0,
        )
        self._features = jax.jit(self.network.features, static_argnums=1, out_shardings=self._rows)
        self._whole = jax.jit(lambda params: params, out_shardings=self._same)
        self._sizes: dict[str, int] = {}
        self._ahead: deque[jax.Array] = deque()
        self._checkpoints = Checkpoints(Path(job.config.output) / "checkpoints", job.config.checkpoint.keep)
        self._stop = processes.StopRequest()

    # -- a step -------------------------------------------------------------------------------------------------------

    def _fresh_state(self, params: Params) -> State:
        average = {name: jnp.copy(value) for name, value in self.optimizer.trainable(params).items()}
        return {
            "params": params,
            "moments": self.optimizer.init(params),
            "average": average if self.config.ema is not None else {},
        }

    def _step(
        self, state: State, batch: Mapping[str, jax.Array], rates: jax.Array, step: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """rates: [learning rate, weight of the old average]."""
        value, gradients = self.network.gradients(state["params"], batch, step)
        params, moments = self.optimizer.update(gradients, state["moments"], state["params"], rates[0])
        average = {name: rates[1] * old + (1 - rates[1]) * params[name] for name, old in state["average"].items()}
        metrics = {
            "loss": value,
            "logit_scale": jnp.exp(params["logit_scale"]),
            "grad_norm": optax.global_norm(gradients),
        }
        if "logit_bias" in params:
            metrics["logit_bias"] = params["logit_bias"]
        return {"params": params, "moments": moments, "average": average}, metrics

    def train_step(self, batch: Batch, lr: float) -> Mapping[str, Any]:
        decay = 0.0 if self.config.ema is None else ema_decay(self.config.ema, self.step)
        with jax.profiler.StepTraceAnnotation("train", step_num=self.step):
            rows = {name: sharding.place_rows(self.mesh, value) for name, value in batch.items()}
            rates = sharding.place_same(self.mesh, np.array([lr, decay], np.float32))
            step = sharding.place_same(self.mesh, np.array(self.step, np.int32))
            self.state, metrics = self._train(self.state, rows, rates, step)
        self.step += 1
        self._ahead.append(metrics["loss"])
        if len(self._ahead) > AHEAD:
            self._ahead.popleft().block_until_ready()
        return metrics

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save(self, data_state: Mapping[str, Any]) -> None:
        self._checkpoints.save(self.step, self.state, data_state)

    def restore(self) -> Mapping[str, Any] | None:
        like = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            self.state,
            self._shardings,
        )
        found = self._checkpoints.restore(like)
        if found is None:
            return None
        self.step, self.state, data = found
        return data

    def wait(self) -> None:
        self._checkpoints.wait()

    def stopping(self) -> bool:
        return self._stop.seen()

    # -- what comes out -----------------------------------------------------------------------------------------------

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray:
        return self._embedded("pixel_values", pixel_values)

    def text_features(self, input_ids: np.ndarray) -> np.ndarray:
        return self._embedded("input_ids", input_ids)

    def _embedded(self, kind: str, rows: np.ndarray) -> np.ndarray:
        """Embeddings of rows padded to the largest batch so far, in any process, so that few sizes are compiled."""
        devices = len(self.mesh.local_devices)
        most = max(processes.gather_counts(len(rows)))
        size = self._sizes[kind] = max(self._sizes.get(kind, 0), -(-most // devices) * devices)
        if size == 0:
            return np.zeros((0, self.job.model_config.projection_dim), np.float32)
        padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        features = self._features(self._current(average=True), kind, sharding.place_rows(self.mesh, padded))
        shards = sorted(features.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])[: len(rows)]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return processes.gather_rows(rows)

    def weights(self, average: bool) -> Mapping[str, np.ndarray]:
        params = self._whole(self._current(average))
        return {name: self._canonical(name, np.asarray(value)) for name, value in params.items()}

    def _canonical(self, name: str, value: np.ndarray) -> np.ndarray:
        if name not in self.network.layouts:
            return value
        return OPS[self.network.layouts[name][1]].inverse(Tensor.from_numpy(value))[0].numpy()

    def _current(self, average: bool) -> Params:
        return self.state["params"] | (self.state["average"] if average else {})

    def export(self, folder: Path, average: bool) -> None:
        params = self._whole(self._current(average))
        problem = None
        if jax.process_index() == 0:
            tree = unflatten_dict({path: params[name] for name, (path, _) in self.network.layouts.items()})
            model = FlaxCLIPModel(self.job.model_config, _do_init=False)
            try:
                model.save_pretrained(folder, params=tree, safe_serialization=True)
            except OSError as error:
                problem = error
        failed = any(processes.gather_counts(int(problem is not None)))  # the others wait here, and learn of a failure
        if failed:
            raise problem or OSError(f"{folder}: the first process could not write the model")

    def close(self) -> None:
        # JAX leaves the group at the end of the process. Leaving waits for the other processes, which do not arrive
        # after an error here.
        self._stop.close()
        self._checkpoints.close()

    # -- placement ----------------------------------------------------------------------------------------------------

    def _placed(self, arrays: Mapping[str, np.ndarray]) -> Params:
        placed = {}
        for name, array in arrays.items():
            where = NamedSharding(self.mesh, sharding.parameter_spec(name, array.shape, self.mesh))
            placed[name] = jax.make_array_from_callback(array.shape, where, array.__getitem__)
        return placed

    def _state_shardings(self, params: Params) -> State:
        """Moments and average are sharded like their parameters; counters are replicated."""
        where = {name: value.sharding for name, value in params.items()}
        state = jax.eval_shape(self._fresh_state, params)

        def place(path: Any, leaf: Any) -> NamedSharding:
            return next((where[part.key] for part in path if getattr(part, "key", None) in where), self._same)

        return jax.tree_util.tree_map_with_path(place, state)


def initial_parameters(job: Job, names: Mapping[str, tuple[tuple[str, ...], str]]) -> dict[str, np.ndarray]:
    """Canonical name -> array in Flax's layout, with the run's extra parameters."""
    found = {}
    for name, (_, op) in names.items():
        tensor = OPS[op].forward([Tensor.from_numpy(np.asarray(job.weights[name]))], 1)
        found[name] = to_jax(tensor, "float32")
    return found | extra_parameters(job)
