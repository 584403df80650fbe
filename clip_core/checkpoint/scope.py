"""Where the CLIP is inside a file: under which prefix, in which dialect, with which towers.

Found by names that every tower has (its anchors), so a prefix needs no entry here to be read; the table only says
what known prefixes are called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import CheckpointError
from . import dialects
from .dialects import Dialect

# prefix -> (what it is, the component names that choose it, its activation). Activations: Stable Diffusion 1's and
# SDXL's first encoder are OpenAI's ViT-L/14; SD2's and SDXL's second are LAION's H/14 and bigG/14.
KNOWN: dict[str, tuple[str, tuple[str, ...], str]] = {
    "cond_stage_model.transformer.": ("Stable Diffusion 1", ("text_encoder",), "quick_gelu"),
    "cond_stage_model.model.": ("Stable Diffusion 2", ("text_encoder",), "gelu"),
    "conditioner.embedders.0.transformer.": ("SDXL", ("text_encoder", "clip_l"), "quick_gelu"),
    "conditioner.embedders.1.model.": ("SDXL", ("text_encoder_2", "clip_g"), "gelu"),
    "conditioner.embedders.0.model.": ("SD2 or the SDXL refiner", ("text_encoder", "text_encoder_2", "clip_g"), "gelu"),
    "text_encoders.clip_l.transformer.": ("SD3", ("text_encoder", "clip_l"), "quick_gelu"),
    "text_encoders.clip_g.transformer.": ("SD3", ("text_encoder_2", "clip_g"), "gelu"),
    "clip_l.transformer.": ("ComfyUI", ("text_encoder", "clip_l"), "quick_gelu"),
    "clip_g.transformer.": ("ComfyUI", ("text_encoder_2", "clip_g"), "gelu"),
    "embedder.model.": ("unCLIP", ("image_encoder",), "gelu"),
    "conditioner.embedders.0.open_clip.model.": ("Stable Video Diffusion", ("image_encoder",), "gelu"),
    "vision_model.": ("Stable Diffusion's safety checker", ("safety_checker",), "quick_gelu"),
}
TOWERS = ("text", "vision")


class Scope(NamedTuple):
    """One CLIP, or tower of it, inside a file."""

    prefix: str
    dialect: Dialect
    towers: tuple[str, ...]

    @property
    def components(self) -> tuple[str, ...]:
        """Names that choose it."""
        known = KNOWN.get(self.prefix)
        return known[1] if known else ()

    def __str__(self) -> str:
        what = f"{self.components[0]} " if self.components else ""
        where = f"under {self.prefix!r}" if self.prefix else "without a prefix"
        return f"{what}({' and '.join(self.towers)}, {self.dialect.name} names {where})"


def find(names: Iterable[str]) -> list[Scope]:
    """Every CLIP in a list of tensor names, in the order of the known prefixes."""
    endings = sorted(
        ((anchor, tower, d) for d in dialects.ALL for tower, anchor in dialects.anchors(d)),
        key=lambda item: -len(item[0]),
    )
    claims: dict[str, dict[int, list[str]]] = {}  # prefix -> index of the dialect -> towers
    for name in names:
        longest = 0
        for anchor, tower, dialect in endings:
            if len(anchor) < longest:
                break
            prefix = name.removesuffix(anchor)
            if prefix != name and (not prefix or prefix[-1] in "./"):
                longest = len(anchor)
                claims.setdefault(prefix, {}).setdefault(dialects.ALL.index(dialect), []).append(tower)
    scopes = []
    for prefix, found in claims.items():
        # The names of a vision tower alone may fit two dialects; the text tower beside it decides.
        index = max(found, key=lambda i: (len(found[i]), -i))
        scopes.append(Scope(prefix, dialects.ALL[index], tuple(t for t in TOWERS if t in found[index])))
    order = list(KNOWN)
    # A CLIP without a prefix is the file's own; others beside it are parts that somebody added, a teacher say.
    return sorted(scopes, key=lambda s: (order.index(s.prefix) if s.prefix in order else -1, s.prefix != ""))


def choose(scopes: list[Scope], component: str | None, where: str) -> Scope:
    """The one that a component asks for: a component's name, a tower, or a prefix. None: the first."""
    if component is None:
        return scopes[0]
    if component in TOWERS:
        fitting = [s for s in scopes if component in s.towers]
    else:
        fitting = [s for s in scopes if component in s.components or (s.prefix and component == s.prefix)]
        if not fitting and len(scopes) == 1 and not scopes[0].components:
            fitting = _alone(scopes[0], component)
    if not fitting:
        listed = "; ".join(map(str, scopes))
        names = ", ".join(map(repr, component_names(scopes)))
        raise CheckpointError(f"{where}: component: wanted one of {names}, found {component!r}; it has {listed}")
    return fitting[0]


def component_names(scopes: list[Scope]) -> list[str]:
    """Every name that `choose` takes for these."""
    names = [name for scope in scopes for name in (*scope.components, scope.prefix, *scope.towers) if name]
    return list(dict.fromkeys(names))


def _alone(scope: Scope, component: str) -> list[Scope]:
    """A file with a single CLIP fits every component name of its kind."""
    tower = "vision" if component in ("image_encoder", "safety_checker") else "text"
    known = {name for _, names, _ in KNOWN.values() for name in names}
    return [scope] if component in known and tower in scope.towers else []
