"""Further methods of v4.37's base class, for a model of one tower or two."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from clip_core.absent import ABSENT, absent_attribute

ATTENTIONS = ("sdpa", "eager")


class Methods:
    """Mixed into `PreTrainedModel`."""

    main_input_name = "input_ids"
    framework = "pt"
    supports_gradient_checkpointing = False
    is_parallelizable = False
    generation_config = None
    model_tags: list[str] | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]
        except AttributeError as error:
            if name in ABSENT["torch_model"]:
                raise absent_attribute(self, name, "torch_model") from None
            raise error

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the floating-point parameters."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def base_model(self) -> Any:
        """The CLIP inside an outer class, under `base_model_prefix`; otherwise the model itself."""
        return getattr(self, self.base_model_prefix, self) if self.base_model_prefix else self

    @property
    def name_or_path(self) -> str:
        return self.config.name_or_path

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Token ids for tracing tools."""
        return {"input_ids": torch.tensor([[7, 6, 0, 0, 1], [1, 2, 3, 0, 0], [0, 0, 0, 4, 5]])}

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The number of parameters; optionally only of trainable ones, or without nn.Embedding tables."""
        tables = {f"{name}.weight" for name, module in self.named_modules() if isinstance(module, nn.Embedding)}
        return sum(
            parameter.numel()
            for name, parameter in self.named_parameters()
            if (parameter.requires_grad or not only_trainable) and not (exclude_embeddings and name in tables)
        )

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute each layer in the backward pass; keywords go to torch.utils.checkpoint (use_reentrant=False)."""
        self._set_gradient_checkpointing(True, gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        self._set_gradient_checkpointing(False, None)

    def _set_gradient_checkpointing(self, enabled: bool, kwargs: dict[str, Any] | None) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = enabled
                module.checkpoint_kwargs = {"use_reentrant": False, **(kwargs or {})}

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def set_attn_implementation(self, name: str) -> None:
        """ "sdpa" or "eager", from the next call on."""
        if name not in ATTENTIONS:
            raise ValueError(f"attn_implementation: wanted one of {', '.join(ATTENTIONS)}, found {name!r}")
        for config in (self.config, *(getattr(self.config, sub) for sub in self.config._sub_configs)):
            config._attn_implementation = name

    def enable_input_require_grads(self) -> None:
        """Make the embeddings' output require gradients (adapters on frozen models need it)."""
        embeddings = self.get_input_embeddings()
        self._require_grads_hook = embeddings.register_forward_hook(lambda m, args, out: out.requires_grad_(True))

    def disable_input_require_grads(self) -> None:
        self._require_grads_hook.remove()

    # -- sizes and costs ----------------------------------------------------------------------------------------------

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters, and of the buffers."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def estimate_tokens(self, input_dict: Mapping[str, Any]) -> int:
        """The number of elements in the main input; 0 if it is missing, logged once."""
        if self.main_input_name in input_dict:
            return input_dict[self.main_input_name].numel()
        if "estimate_tokens" not in self.warnings_issued:
            self.warnings_issued["estimate_tokens"] = True
            logging.getLogger("triclip").warning("no %s: tokens can't be counted", self.main_input_name)
        return 0

    def floating_point_ops(self, input_dict: Mapping[str, Any], exclude_embeddings: bool = True) -> int:
        """v4.37's estimate for a forward and backward step: 6 x tokens x parameters."""
        return 6 * self.estimate_tokens(input_dict) * self.num_parameters(exclude_embeddings=exclude_embeddings)

    @property
    def warnings_issued(self) -> dict[str, bool]:
        """Warnings that were already logged."""
        return self.__dict__.setdefault("_warnings_issued", {})

    @classmethod
    def can_generate(cls) -> bool:
        """False: CLIP generates no text."""
        return False

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Add tags for the model's page on the hub."""
        own = self.model_tags or []
        self.model_tags = own + [tag for tag in ([tags] if isinstance(tags, str) else tags) if tag not in own]

    def retrieve_modules_from_names(
        self, names: Iterable[str], add_prefix: bool = False, remove_prefix: bool = False
    ) -> list[nn.Module]:
        """The modules of weights with these names, with or without `base_model_prefix`."""
        names, start = list(names), f"{self.base_model_prefix}."
        wanted = {name.rpartition(".")[0] for name in names}
        wanted |= {name.rpartition(".")[0].rpartition(".")[0] for name in names if name[-1:].isdigit()}  # ParameterList
        paths = {
            path.removeprefix(start) if remove_prefix else (start + path).rstrip(".") if add_prefix else path: module
            for path, module in self.named_modules()
        }
        return [module for path, module in paths.items() if path in wanted]

    # -- masks --------------------------------------------------------------------------------------------------------

    def invert_attention_mask(self, encoder_attention_mask: torch.Tensor) -> torch.Tensor:
        """A mask with 1 for visible tokens as an additive mask: [B, S] -> [B, 1, 1, S], [B, S, T] -> [B, 1, S, T]."""
        mask = encoder_attention_mask
        mask = mask[:, None] if mask.dim() == 3 else mask[:, None, None]
        return (1.0 - mask.to(self.dtype)) * torch.finfo(self.dtype).min

    def get_extended_attention_mask(
        self, attention_mask: torch.Tensor, input_shape: Any, device: Any = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """As `invert_attention_mask`, in `dtype`; also causal if the config has `is_decoder`."""
        if attention_mask.dim() not in (2, 3):
            raise ValueError(f"attention_mask: wanted [B, S] or [B, S, T], found {tuple(attention_mask.shape)}")
        if attention_mask.dim() == 2 and self.config.is_decoder:
            mask = self.create_extended_attention_mask_for_decoder(input_shape, attention_mask, device)
        else:
            mask = attention_mask[:, None] if attention_mask.dim() == 3 else attention_mask[:, None, None]
        dtype = dtype or self.dtype
        return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min

    @staticmethod
    def create_extended_attention_mask_for_decoder(
        input_shape: Any, attention_mask: torch.Tensor, device: Any = None
    ) -> torch.Tensor:
        """A causal mask, 1 for visible tokens, for `input_shape` [B, S] and P earlier tokens of the mask [B, P + S]."""
        rows, before = input_shape[1], attention_mask.shape[1] - input_shape[1]
        past = torch.ones(rows, attention_mask.shape[1], dtype=attention_mask.dtype, device=attention_mask.device)
        return past.tril(max(before, 0))[None, None] * attention_mask[:, None, None, :]

    def get_head_mask(
        self, head_mask: torch.Tensor | None, num_hidden_layers: int, is_attention_chunked: bool = False
    ) -> Any:
        """A mask with 1 for kept heads, [H] or [L, H] -> [L, B or 1, H, 1, 1]; None -> a list of None per layer."""
        if head_mask is None:
            return [None] * num_hidden_layers
        if head_mask.dim() == 1:
            head_mask = head_mask.expand(num_hidden_layers, -1)
        if head_mask.dim() == 2:
            head_mask = head_mask[:, None, :, None, None]
        head_mask = head_mask.to(self.dtype)
        return head_mask.unsqueeze(-1) if is_attention_chunked else head_mask

    def warn_if_padding_and_no_attention_mask(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> None:
        """Warn once if ids look padded without a mask. CLIP's causal text tower needs none."""
        padding = self.config.pad_token_id
        if attention_mask is not None or padding is None or "padding" in self.warnings_issued:
            return
        if bool((input_ids[:, [-1, 0]] == padding).any()):
            self.warnings_issued["padding"] = True
            logging.getLogger("triclip").warning("input_ids seem to be padded: pass attention_mask")

    # -- embeddings ---------------------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding; for a vision model the patch embedding, as in v4.37."""
        towers = self._transformers()
        if not towers:
            raise NotImplementedError(f"{type(self).__name__}: no CLIP in it, at the top or under base_model_prefix")
        tower = towers.get("text_model")
        return towers["vision_model"].embeddings.patch_embedding if tower is None else tower.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding; inputs are then checked against the new one."""
        self._text_tower("set_input_embeddings").embeddings.token_embedding = value

    def get_output_embeddings(self) -> Any:
        """None: CLIP has no output embeddings. For subclasses that do."""
        return None

    def tie_weights(self) -> None:
        """Tie a subclass's output embeddings to the input embeddings, if the config says so; then call `_tie_weights`
        of every module that has it."""
        output = self.get_output_embeddings()
        if output is not None and self.config.tie_word_embeddings:
            output.weight = self.get_input_embeddings().weight
        for module in self.modules():
            if hasattr(module, "_tie_weights"):
                module._tie_weights()

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Grow or shrink the vocabulary; kept rows are unchanged, new ones are drawn by the initialisation rule.

        Args:
            new_num_tokens: rows wanted; None keeps the number (or only rounds it).
            pad_to_multiple_of: rounds the number up.
        """
        tower = self._text_tower("resize_token_embeddings")
        old = tower.embeddings.token_embedding
        rows = old.num_embeddings if new_num_tokens is None else int(new_num_tokens)
        if pad_to_multiple_of is not None:
            if not isinstance(pad_to_multiple_of, int) or pad_to_multiple_of < 1:
                raise ValueError(f"pad_to_multiple_of: wanted a positive integer, found {pad_to_multiple_of!r}")
            rows = -(-rows // pad_to_multiple_of) * pad_to_multiple_of
        if rows < 1:
            raise ValueError(f"new_num_tokens: wanted at least 1, found {rows}")
        if rows == old.num_embeddings:
            return old
        tower.embeddings.token_embedding = self._resized(old, rows)
        tower.config.vocab_size = self.vocab_size = rows
        if self.get_output_embeddings() is not None:
            self.tie_weights()
        return tower.embeddings.token_embedding

    def get_position_embeddings(self) -> Any:
        """The tower's position embedding; for a full model both, (text, vision)."""
        found = [tower.embeddings.position_embedding for tower in self._transformers().values()]
        return found[0] if len(found) == 1 else tuple(found)

    def resize_position_embeddings(self, new_num_position_embeddings: int, tower: str | None = None) -> None:
        """Change a tower's number of positions and the config.

        Text: kept rows are unchanged, new ones are drawn by the initialisation rule.
        Vision: the grid is resampled (bicubic) for pictures of another size; the number is a square + 1.

        Args:
            new_num_position_embeddings: positions wanted.
            tower: "text" or "vision"; default: the text tower if there is one.

        Raises ValueError for a missing tower, and a number that is not a square + 1.
        """
        towers = self._transformers()
        name = f"{tower}_model" if tower else next(iter(towers), "")
        if name not in towers:
            raise ValueError(f"tower: wanted one of {', '.join(towers)}, without '_model', found {tower!r}")
        embeddings, config, count = towers[name].embeddings, towers[name].config, int(new_num_position_embeddings)
        if count < 1:
            raise ValueError(f"new_num_position_embeddings: wanted at least 1, found {count}")
        old = embeddings.position_embedding
        if name == "text_model":
            new, config.max_position_embeddings = self._resized(old, count), count
        else:
            new = _regridded(old, count)
            embeddings.num_patches, embeddings.num_positions = count - 1, count
            config.image_size = embeddings.image_size = round((count - 1) ** 0.5) * embeddings.patch_size
        embeddings.position_embedding = new
        embeddings.position_ids = torch.arange(count, device=new.weight.device)[None]

    def _resized(self, old: nn.Embedding, rows: int) -> nn.Embedding:
        """An embedding with the first rows kept, and further ones drawn."""
        new = nn.Embedding(rows, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
        with torch.no_grad():
            new.weight.normal_(mean=0.0, std=0.02 * self.config.initializer_factor)
            kept = min(rows, old.num_embeddings)
            new.weight[:kept] = old.weight[:kept]
        new.weight.requires_grad_(old.weight.requires_grad)
        return new

    def _text_tower(self, what: str) -> nn.Module:
        towers = self._transformers()
        if "text_model" not in towers:
            raise ValueError(f"{type(self).__name__}.{what}: this model has no token embedding")
        return towers["text_model"]

    def _transformers(self) -> dict[str, Any]:
        """The towers, text first: the model's own, or those of the model inside."""
        found = {}
        for name in ("text_model", "vision_model"):
            part = getattr(self.base_model, name, None)
            part = getattr(part, name, part)
            if part is not None:
                found[name] = part
        return found

    # -- heads --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]], tower: str | None = None) -> None:
        """Remove attention heads: {layer: [heads]}. A full model also needs `tower` = "text" or "vision".

        The config stores them (`pruned_heads`), so that a saved model loads with its shorter projections.
        """
        name = f"{tower}_model" if tower else next(iter(self._towers())) if len(self._towers()) == 1 else None
        if name not in self._towers():
            raise ValueError(f"tower: wanted one of {', '.join(self._towers())}, without '_model', found {tower!r}")
        transformer = self._transformers()[name]
        pruned = copy.deepcopy(transformer.config.pruned_heads)
        for layer, heads in heads_to_prune.items():
            attention = transformer.encoder.layers[layer].self_attn
            _prune(attention, set(heads), set(pruned.get(layer, ())), transformer.config)
            pruned[layer] = sorted(set(pruned.get(layer, ())) | set(heads))
        transformer.config.pruned_heads = pruned

    def _towers(self) -> list[str]:
        return list(self._transformers())


def _prune(attention: nn.Module, heads: set[int], already: set[int], config: Any) -> None:
    total, width = config.num_attention_heads, attention.head_dim
    if not heads <= set(range(total)):
        raise ValueError(f"heads_to_prune: wanted heads from 0 to {total - 1}, found {sorted(heads)}")
    if len(heads | already) == total:
        raise ValueError("heads_to_prune: at least one head of a layer must stay")
    present = [head for head in range(total) if head not in already]
    index = torch.cat([torch.arange(i * width, (i + 1) * width) for i, h in enumerate(present) if h not in heads])
    for name in ("q_proj", "k_proj", "v_proj"):
        _keep(getattr(attention, name), index, 0)
    _keep(attention.out_proj, index, 1)
    attention.num_heads = len(index) // width


def _keep(linear: nn.Linear, index: torch.Tensor, axis: int) -> None:
    """Keep some of a linear layer's outputs (axis 0) or inputs (axis 1)."""
    index = index.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.index_select(axis, index), linear.weight.requires_grad)
    if axis == 0:
        linear.bias = nn.Parameter(linear.bias[index], linear.bias.requires_grad)
        linear.out_features = len(index)
    else:
        linear.in_features = len(index)


def _regridded(old: nn.Embedding, count: int) -> nn.Embedding:
    """A vision tower's positions on another grid; the class position is kept."""
    grid, side = round((old.num_embeddings - 1) ** 0.5), round((count - 1) ** 0.5)
    if side < 1 or side**2 + 1 != count:
        raise ValueError(f"new_num_position_embeddings: wanted the square of a grid's side, plus 1, found {count}")
    new = nn.Embedding(count, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        square = old.weight[1:].T.reshape(1, -1, grid, grid).float()
        square = F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
        new.weight.copy_(torch.cat([old.weight[:1].float(), square.flatten(2)[0].T]))
    new.weight.requires_grad_(old.weight.requires_grad)
    return new
