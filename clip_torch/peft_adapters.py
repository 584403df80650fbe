"""v4.37's methods for adapters (LoRA and others), by peft, which is imported when one of them is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_core.errors import MissingDependencyError


class Adapters:
    """Mixed into `PreTrainedModel`. For a model with an adapter, `save_pretrained` writes only the adapter."""

    _hf_peft_config_loaded = False
    peft_config: dict[str, Any]

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Add a new adapter to train; the model's own weights are frozen.

        Args:
            adapter_config: a peft config, such as LoraConfig.
            adapter_name: default "default".

        Raises ValueError for a name in use, TypeError for another config, MissingDependencyError without peft.
        """
        peft, name = _peft(), self._free_name(adapter_name)
        if not isinstance(adapter_config, peft.PeftConfig):
            raise TypeError(f"adapter_config: wanted a peft config, found {type(adapter_config).__name__}")
        adapter_config.base_model_name_or_path = self.name_or_path
        peft.inject_adapter_in_model(adapter_config, self, name)
        self._hf_peft_config_loaded = True
        self.set_adapter(name)

    def load_adapter(
        self,
        peft_model_id: Any = None,
        adapter_name: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        peft_config: Any = None,
        adapter_state_dict: Mapping[str, Any] | None = None,
        is_trainable: bool = False,
        **where: Any,
    ) -> None:
        """Add an adapter from a folder or hub name, or from a config and weights.

        Weights have the published names (`text_model.encoder...`), with or without the prefix of a model's only tower.

        Args:
            peft_model_id: folder or hub name, read by peft; `revision`, `token`, `where` (`subfolder`, ...): for peft.
            adapter_name: default "default".
            peft_config, adapter_state_dict: in place of files.
            is_trainable: False freezes the adapter and puts the model into evaluation mode.

        Raises ValueError for a name in use and for missing or unknown weights; MissingDependencyError.
        """
        if where.pop("hotswap", False) is True:
            raise ValueError("hotswap: wanted False: adapters are not exchanged in place here")
        low_memory = where.pop("low_cpu_mem_usage", False)
        if peft_model_id is None and (peft_config is None or adapter_state_dict is None):
            raise ValueError("load_adapter: wanted peft_model_id, or both peft_config and adapter_state_dict")
        name, peft = self._free_name(adapter_name), _peft()
        where |= {key: value for key, value in (("revision", revision), ("token", token)) if value is not None}
        if peft_config is None:
            peft_config = peft.PeftConfig.from_pretrained(peft_model_id, **where)
        if adapter_state_dict is None:
            adapter_state_dict = peft.load_peft_weights(peft_model_id, device=str(self.device), **where)
        peft_config.inference_mode = not is_trainable
        peft.inject_adapter_in_model(peft_config, self, name, low_cpu_mem_usage=low_memory)
        self._hf_peft_config_loaded = True
        state = _published(self, adapter_state_dict)
        found = peft.set_peft_model_state_dict(self, state, name, low_cpu_mem_usage=low_memory)
        missing = [key for key in found.missing_keys if name in key.split(".")[-2:]]  # not the model's own weights
        if missing or found.unexpected_keys:
            self.delete_adapter(name)
            listed = [f"- {key}" for key in missing] + [f"+ {key}" for key in found.unexpected_keys]
            raise ValueError(
                f"adapter {name!r}: wanted the weights of its config (- missing, + unexpected):\n" + "\n".join(listed)
            )
        if not is_trainable:
            self.eval()

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        """Set the adapter or adapters to use. Raises ValueError for an unknown name."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        missing = [name for name in names if name not in self._configs()]
        if missing:
            raise ValueError(f"adapter_name: wanted some of {', '.join(self._configs())}, found {missing[0]!r}")
        for layer in self._adapted_layers():
            layer.set_adapter(adapter_name)

    def enable_adapters(self) -> None:
        """Use adapters again."""
        self._enable(True)

    def disable_adapters(self) -> None:
        """Compute without adapters, until `enable_adapters`."""
        self._enable(False)

    def active_adapters(self) -> list[str]:
        """Names of the adapters in use."""
        self._configs()
        layer = next(iter(self._adapted_layers()), None)
        active = [] if layer is None else layer.active_adapter
        return [active] if isinstance(active, str) else list(active)

    def active_adapter(self) -> str:
        """The first of `active_adapters`."""
        return self.active_adapters()[0]

    def get_adapter_state_dict(self, adapter_name: str | None = None) -> dict[str, Any]:
        """An adapter's weights by name; default: the one in use."""
        return _peft().get_peft_model_state_dict(self, adapter_name=adapter_name or self.active_adapter())

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """Remove adapters from the model. Raises ValueError for an unknown name."""
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            if name not in self._configs():
                raise ValueError(f"adapter_names: wanted some of {', '.join(self._configs())}, found {name!r}")
            for layer in self._adapted_layers():
                layer.delete_adapter(name)
            del self.peft_config[name]

    def _save_adapter(self, folder: str | Path) -> None:
        """Write adapter_model.safetensors and adapter_config.json, which peft reads."""
        from safetensors.torch import save_file

        folder, name = Path(folder), self.active_adapter()
        folder.mkdir(parents=True, exist_ok=True)
        state = {f"base_model.model.{key}": v.contiguous() for key, v in self.get_adapter_state_dict(name).items()}
        save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
        self.peft_config[name].save_pretrained(str(folder))

    def _free_name(self, name: str | None) -> str:
        if self._hf_peft_config_loaded and (name or "default") in self.peft_config:
            raise ValueError(f"adapter_name: {name or 'default'!r} is taken by an adapter of this model")
        return name or "default"

    def _configs(self) -> dict[str, Any]:
        if not self._hf_peft_config_loaded:
            raise ValueError("no adapter loaded: load_adapter or add_adapter comes first")
        return self.peft_config

    def _adapted_layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import ModulesToSaveWrapper

        return [module for module in self.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]

    def _enable(self, enabled: bool) -> None:
        self._configs()
        for layer in self._adapted_layers():
            layer.enable_adapters(enabled)


def _published(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's weights with this model's names: without peft's prefix, with that of the only tower."""
    state = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    towers = model._towers()
    if len(towers) != 1:
        return state
    inside = tuple(f"{part}." for part, _ in getattr(model, towers[0]).named_children())
    return {f"{towers[0]}.{key}" if key.startswith(inside) else key: value for key, value in state.items()}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError("adapters need peft: pip install peft") from error
    return peft
