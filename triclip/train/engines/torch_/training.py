"""The training engine in PyTorch: one device, DistributedDataParallel, or FSDP2; see triclip.train.engine."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from clip_torch.loss import anchor_loss, contrastive_loss
from clip_torch.modeling import CLIPModel, normalize

from ...engine import Batch, Job
from ...newest import load_newest
from ...schedule import ema_decay
from ...start import extra_parameters, is_model_parameter
from ...stop import StopSignals
from .checkpointing import Checkpoints, barrier
from .parallel import Topology, distributed, fill, full, index, local, replicated, start, world

__all__ = ["Engine", "start"]


class Network(nn.Module):
    """The model and the loss's parameters in one module, so that DDP and FSDP2 see a whole step."""

    def __init__(self, model: CLIPModel, extra: Mapping[str, np.ndarray], bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16
        for name in ("logit_bias", "anchors"):
            shape = extra[name].shape if name in extra else None
            self.register_parameter(name, None if shape is None else nn.Parameter(torch.empty(shape)))

    def forward(
        self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, patches: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """(unit image rows [b, P], unit text rows [b, P], logit scale, logit bias, unit anchors), float32 or None."""
        images = texts = None
        with torch.autocast(self.model.logit_scale.device.type, torch.bfloat16, enabled=self.bf16):
            # Texts first, in the order of registration: DDP expects the backward pass in reverse order.
            if input_ids is not None:
                texts = self.model.text_projection(self.model.text_model.pooled(input_ids))
            if pixel_values is not None:
                images = self.model.visual_projection(self.model.vision_model.pooled(pixel_values, patches=patches))
        return (
            None if images is None else normalize(images.float()),
            None if texts is None else normalize(texts.float()),
            self.model.logit_scale.clone(),
            None if self.logit_bias is None else self.logit_bias.clone(),
            None if self.anchors is None else normalize(self.anchors),
        )


class Engine:
    """One process's part of a run; the contract is triclip.train.engine.Engine.

    Gradients are those of the mean loss over all processes' rows: each process computes the gradient of its share
    times the number of processes, which DDP and FSDP2 average.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.config, self.step, self.devices = job, job.config, 0, world()
        self.topology = Topology.of(job.config)
        self.device = self.topology.device
        precision = job.config.precision
        self.bf16 = precision == "bf16" or precision == "auto" and self.device.type != "cpu"
        self.network = self._build()
        self.parameters = {n.removeprefix("model."): p for n, p in self.network.named_parameters()}
        self.trained = {name: p for name, p in self.parameters.items() if p.requires_grad}
        multiple = world() > 1 and self.topology.mesh is None
        self.called = replicated(self.network, self.topology) if multiple else self.network
        self.optimizer = make_optimizer(self.trained, job)
        self.average: dict[str, Tensor] = {}
        if job.config.ema is not None:
            self.average = {name: p.detach().clone() for name, p in self.trained.items()}
        if multiple:
            self._settle()
        self._averaged = False  # whether the network has the average, and `average` the parameters
        self._seed()
        self.checkpoints = Checkpoints(
            Path(job.config.output) / "checkpoints", job.config.checkpoint.keep, self.topology
        )
        self._stop = StopSignals()

    def _build(self) -> Network:
        job, extra = self.job, extra_parameters(self.job)
        with torch.device("meta"):  # under FSDP2 no process ever has the whole
            model = CLIPModel(copy.deepcopy(job.model_config))
            network = Network(model, extra, self.bf16)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(job.rules[name.removeprefix("model.")].trainable)
        if job.config.model.gradient_checkpointing != "none":
            model.gradient_checkpointing_enable()
        if self.topology.mesh is not None:
            layers = [*model.text_model.encoder.layers, *model.vision_model.encoder.layers]
            distributed(network, layers, self.topology, self.bf16)
        network.to_empty(device=self.device)
        fill(network, lambda name: extra[name] if name in extra else job.weights[name.removeprefix("model.")])
        for buffer in network.buffers():  # position_ids are the only buffers
            buffer.copy_(torch.arange(buffer.shape[-1], device=self.device)[None])
        return network.train()

    def _settle(self) -> None:
        """Run an empty step, after which DDP has its final buckets.

        DDP rearranges them once, after the first backward pass, and then sums in another order, by which a resumed run
        would differ from the uninterrupted one in the last bit.
        """
        vision, text = self.job.model_config.vision_config, self.job.model_config.text_config
        pixels = torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size, device=self.device)
        ids = torch.zeros(1, text.max_position_embeddings, dtype=torch.long, device=self.device)
        outputs = self.called(input_ids=ids, pixel_values=pixels)
        sum(output.sum() for output in outputs if output is not None).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _seed(self) -> None:
        """Seed dropout differently in each process."""
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, self.step, index()]).generate_state(1)[0]))

    # -- a step -------------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, lr: float) -> Mapping[str, Tensor]:
        """One step at rate `lr` -> loss, logit_scale, grad_norm (and logit_bias), scalars on the device."""
        self._hold(average=False)
        self.network.train()
        loss = self._gradients(self._inputs(batch))
        norm = self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        scale = self.network.model.logit_scale
        with torch.no_grad():
            if scale.requires_grad:
                scale.clamp_(0, self.config.optimizer.max_logit_scale)
            if self.average:
                decay = ema_decay(self.config.ema, self.step)
                own = [[local(t) for t in tensors.values()] for tensors in (self.average, self.trained)]
                torch._foreach_lerp_(*own, 1 - decay)
        self.step += 1
        out = {"loss": loss, "logit_scale": scale.detach().exp(), "grad_norm": norm}
        if self.network.logit_bias is not None:
            out["logit_bias"] = self.network.logit_bias.detach().clone()
        return out

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        arrays = {"input_ids": self._shortened(batch["input_ids"]), "pixel_values": batch["pixel_values"]}
        arrays |= {name: batch[name] for name in ("patches", "sample") if name in batch}
        return {name: self._tensor(array) for name, array in arrays.items()}

    def _shortened(self, input_ids: np.ndarray) -> np.ndarray:
        return shortened(input_ids, self.job.model_config.text_config.eos_token_id)

    def _tensor(self, array: np.ndarray) -> Tensor:
        array = np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _gradients(self, inputs: dict[str, Tensor]) -> Tensor:
        """Leave the gradients of the mean loss in the parameters; return the loss."""
        sample = inputs.pop("sample", None)
        parts = [dict(zip(inputs, values, strict=True)) for values in zip(*self._split(inputs), strict=True)]
        if len(parts) == 1:
            loss = self._loss(self.called(**inputs), sample)
            (loss * world()).backward()
        else:
            loss = self._in_parts(parts, sample)
        if self.topology.mesh is not None:  # whole in every process, and not managed by FSDP2
            for parameter in self.trained.values():
                if parameter.dim() == 0:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= world()
        return loss.detach()

    def _split(self, inputs: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
        return [tensor.chunk(self.config.accumulate) for tensor in inputs.values()]

    def _in_parts(self, parts: list[dict[str, Tensor]], sample: Tensor | None) -> Tensor:
        """Gradient caching: all embeddings, the gradients with respect to them, then each part with its graph."""
        states, outputs = [], []
        with torch.no_grad():
            for part in parts:
                states.append(self._random())
                outputs.append(self.network(**part))
        images, texts = (torch.cat(rows) for rows in list(zip(*outputs, strict=True))[:2])
        leaves = [None if v is None else v.detach().requires_grad_() for v in (images, texts, *outputs[-1][2:])]
        loss = self._loss(leaves, sample)
        given = [leaf for leaf in leaves if leaf is not None]
        # Not backward(): DDP's hooks must fire only once, with the last part.
        grads = iter(torch.autograd.grad(loss * world(), given))
        d_images, d_texts, *d_rest = (None if leaf is None else next(grads) for leaf in leaves)
        first = 0
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            self._set_random(state)
            last = number == len(parts) - 1
            with self._synchronised(last):
                images, texts, *rest = self.called(**part)
                rows = slice(first, first + len(images))
                terms = [(images, d_images[rows]), (texts, d_texts[rows])]
                # Other parameters' gradients once; zeros before, because FSDP2 accumulates only equal sets.
                terms += [
                    (v, d if last else torch.zeros_like(d)) for v, d in zip(rest, d_rest, strict=True) if v is not None
                ]
                sum((value * grad).sum() for value, grad in terms).backward()
            first = rows.stop
        return loss

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager:
        """Reduce gradients between processes only with the last part (FSDP2: between the shards with each part)."""
        if self.topology.mesh is not None:
            self.network.set_requires_all_reduce(last)
        elif self.called is not self.network and not last:
            return self.called.no_sync()
        return contextlib.nullcontext()

    def _loss(self, outputs: Any, sample: Tensor | None) -> Tensor:
        images, texts, scale, bias, anchors = outputs
        section = self.config.loss
        smoothing = section.label_smoothing
        loss = contrastive_loss(
            images, texts, scale, bias,
            kind=section.kind, mode=section.mode, chunk=section.chunk, label_smoothing=smoothing,
        )  # fmt: skip
        if anchors is not None:
            for rows, weight in ((images, section.anchors.image_weight), (texts, section.anchors.text_weight)):
                loss = loss + weight * anchor_loss(rows, anchors, sample, section.anchors.scale, smoothing)
        return loss

    @torch.no_grad()
    def _clip(self) -> Tensor:
        """The global norm of all gradients, which are clipped to `clip_norm`."""
        grads = [local(p.grad) for p in self.trained.values()]
        shards = [local(p.grad) for p in self.trained.values() if local(p.grad) is not p.grad]
        plain = [p.grad for p in self.trained.values() if local(p.grad) is p.grad]
        square = torch.nn.utils.get_total_norm(plain).square() if plain else torch.zeros((), device=self.device)
        if shards:
            squares = torch.nn.utils.get_total_norm(shards).square()
            dist.all_reduce(squares, group=self.topology.mesh.get_group("fsdp"))
            square = square + squares
        norm, limit = square.sqrt(), self.config.optimizer.clip_norm
        if limit is not None:
            torch._foreach_mul_(grads, limit / norm.clamp(min=limit))
        return norm

    # -- randomness ---------------------------------------------------------------------------------------------------

    def _random(self) -> dict[str, Tensor]:
        """States of dropout's random generators."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _set_random(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        """All saved tensors that are equal in every process, by kind and canonical name."""
        tensors = {f"parameters/{name}": p.detach() for name, p in self.parameters.items()}
        for name, parameter in self.trained.items():
            state = self.optimizer.state[parameter]
            tensors |= {f"first_moment/{name}": state["exp_avg"], f"second_moment/{name}": state["exp_avg_sq"]}
        return tensors | {f"average/{name}": value for name, value in self.average.items()}

    def _own_random(self) -> dict[str, Tensor]:
        return {f"random/{index()}/{kind}": state for kind, state in self._random().items()}

    def save(self, data_state: Mapping[str, Any]) -> None:
        """Begin to write checkpoint number `step`; see the contract."""
        self._hold(average=False)
        self.checkpoints.save(self.step, {**self._tensors(), **self._own_random()}, data_state)

    def restore(self) -> Mapping[str, Any] | None:
        """Load the newest complete checkpoint; see the contract."""
        self._hold(average=False)
        return load_newest(self.checkpoints.steps(), self._load, self.gather, index() == 0)

    def _load(self, step: int) -> Mapping[str, Any]:
        found, random = self.checkpoints.open(step), self._own_random()
        there = self.checkpoints.load(found, self._tensors(), random)
        self.step = found.step
        for parameter in self.trained.values():
            self.optimizer.state[parameter]["step"].fill_(found.step)
        if found.processes == world() and there == set(random):
            self._set_random({name.rpartition("/")[2]: state for name, state in random.items()})
        else:  # another number of processes than at the save: new dropout
            self._seed()
        return found.data

    def wait(self) -> None:
        """Wait until all saves are on disk. Raises OSError, naming the path, if one could not be written."""
        self.checkpoints.wait()

    def stopping(self) -> bool:
        """Whether SIGTERM or Ctrl-C reached any process; the same answer in all of them at the same step."""
        return bool(self.topology.most(int(self._stop.asked)))

    # -- evaluation and results ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def _hold(self, average: bool) -> None:
        """Swap parameters and average, if there is one, so that the network has the one asked for."""
        if not self.average or average == self._averaged:
            return
        for name, parameter in self.trained.items():
            other = local(self.average[name])
            own = local(parameter)
            kept = own.clone()
            own.copy_(other)
            other.copy_(kept)
        self._averaged = average

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """[b, C, h, w] -> unit rows [b, P] float32, with the average if there is one."""
        return self._features("pixel_values", pixel_values)

    def text_features(self, input_ids: np.ndarray) -> np.ndarray:
        """[b, S] -> unit rows [b, P] float32, with the average if there is one."""
        return self._features("input_ids", self._shortened(input_ids))

    @torch.no_grad()
    def _features(self, name: str, rows: np.ndarray) -> np.ndarray:
        self._hold(average=True)
        self.network.eval()
        count = len(rows)
        if count == 0:  # FSDP2's gather needs every process
            rows = np.zeros((1, *rows.shape[1:]), rows.dtype)
        images, texts, *_ = self.network(**{name: self._tensor(rows)})
        return (images if texts is None else texts)[:count].cpu().numpy()

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all processes, in order of the processes, in every process."""
        return self.topology.gather(rows)

    def weights(self, average: bool) -> Mapping[str, np.ndarray]:
        """Canonical name -> whole float32 array, in every process."""
        self._hold(average=False)
        chosen = {**self.parameters, **(self.average if average else {})}
        return {name: full(tensor) for name, tensor in chosen.items()}

    def export(self, folder: Path, average: bool) -> None:
        """Write config.json and model.safetensors; the first process writes, all wait."""
        weights = {n: torch.from_numpy(w) for n, w in self.weights(average).items() if is_model_parameter(n)}
        try:
            self.network.model.save_pretrained(folder, is_main_process=index() == 0, state_dict=weights)
        finally:
            barrier(self.topology)

    def close(self) -> None:
        """Finish the saves, restore the signal handlers, and leave the group of processes."""
        try:
            self.wait()
        finally:
            self._stop.close()
            if dist.is_initialized():
                dist.destroy_process_group()


def make_optimizer(trained: Mapping[str, Tensor], job: Job) -> torch.optim.AdamW:
    """AdamW with one group per rate and decay, and its moments allocated, as a restore needs them."""
    section, groups = job.config.optimizer, {}
    for name, parameter in trained.items():
        rule = job.rules[name]
        # Sharded and whole ones separately, because a fused call takes only one kind.
        key = rule.lr_scale, section.weight_decay if rule.decay else 0.0, type(parameter.data)
        groups.setdefault(key, []).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr_scale": scale, "weight_decay": decay} for (scale, decay, _), p in groups.items()],
        lr=section.lr, betas=tuple(section.betas), eps=section.eps, fused=True,
    )  # fmt: skip
    for parameter in trained.values():
        step = torch.zeros((), device=parameter.device)
        zeros = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": step, **zeros}
    return optimizer


def shortened(input_ids: np.ndarray, eos_token_id: int) -> np.ndarray:
    """Ids [b, S] without the columns after every row's end token, which have no effect in a causal tower.

    Rounded up to eights, so that few shapes occur.
    """
    legacy = eos_token_id == 2  # in old configs the highest id is the end token, see CLIPTextTransformer
    end = input_ids.argmax(1) if legacy else (input_ids == eos_token_id).argmax(1)
    return input_ids[:, : -(-(int(end.max(initial=0)) + 1) // 8) * 8]
