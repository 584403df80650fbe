"""Maps of embeddings projected to two dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clip_core.errors import InputError, MissingDependencyError

from .style import INK, MARKERS, PALETTE, PNG_DPI, drawn, new_figure, picture_array, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("pca", "umap")
_UMAP_ROWS = 5  # with fewer its initialisation from three eigenvectors fails
_BLOCK = 1 << 14
_PICTURE = 0.32  # inches
_LABELLED_UP_TO = 200
_SPREAD_UP_TO, _PUSHES = 100, 300  # pictures to be moved apart, and the most iterations
_MARGIN = 4  # pixels around a label
# Places for a label, in points from its point, the best first.
_PLACES = [
    (6, 0),
    (-6, 0),
    (0, 7),
    (0, -7),
    (5, 6),
    (-5, 6),
    (5, -6),
    (-5, -6),
    (0, 14),
    (0, -14),
    (14, 10),
    (-14, -10),
]


class Projection(NamedTuple):
    """points float32 [N, 2]; explained: shares of the variance along both axes, None for UMAP."""

    points: np.ndarray
    explained: tuple[float, float] | None


def project(vectors: np.ndarray, method: str = "pca", seed: int = 0) -> Projection:
    """Project to two dimensions by PCA, or by UMAP if umap-learn is installed.

    Args:
        vectors: [N, P], N from 2 (UMAP: from 5).
        method: "pca" (default) or "umap" (by cosine).
        seed: of UMAP. PCA needs none; the largest loading of each axis is positive.

    Raises InputError; MissingDependencyError without umap-learn.
    """
    array = np.asarray(vectors)
    if array.ndim != 2 or len(array) < 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        raise InputError(f"vectors: wanted at least two rows of numbers [N, P], found {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise InputError("vectors: wanted finite numbers, found NaN or infinity")
    if method == "pca":
        return _pca(array)
    if method != "umap":
        raise InputError(f"method: wanted one of {', '.join(METHODS)}, found {method!r}")
    try:
        from umap import UMAP
    except ImportError as error:
        raise MissingDependencyError("a UMAP needs umap-learn: pip install umap-learn") from error
    if len(array) < _UMAP_ROWS:
        raise InputError(f"vectors: UMAP wants at least {_UMAP_ROWS} rows, found {len(array)}")
    options = {"random_state": seed, "n_jobs": 1}  # a seed takes one thread
    points = UMAP(n_neighbors=min(15, len(array) - 1), metric="cosine", **options).fit_transform(array)
    return Projection(np.asarray(points, np.float32), None)


def _pca(array: np.ndarray) -> Projection:
    mean = array.mean(0, dtype=np.float64)
    covariance = np.zeros((array.shape[1],) * 2)
    for start in range(0, len(array), _BLOCK):  # the vectors may be many, and mapped from a file
        centred = array[start : start + _BLOCK] - mean
        covariance += centred.T @ centred
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = np.maximum(variances[::-1], 0), axes[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)
    if axes.shape[1] < 2:
        axes, variances = np.pad(axes, ((0, 0), (0, 1))), np.pad(variances, (0, 1))
    total = max(float(variances.sum()), np.finfo(float).tiny)
    explained = float(variances[0]) / total, float(variances[1]) / total
    points = [(array[i : i + _BLOCK] - mean) @ axes for i in range(0, len(array), _BLOCK)]
    return Projection(np.concatenate(points).astype(np.float32), explained)


@drawn
def embedding_map(
    vectors: np.ndarray,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    pictures: Sequence[Any] | None = None,
    method: str = "pca",
    seed: int = 0,
    title: str | None = None,
) -> Figure:
    """Vectors as points, pictures or both, coloured by group.

    Args:
        vectors: [N, P].
        labels: N strings, written beside the points where they don't overlap; up to 200.
        groups: N strings; up to 7 different ones have a colour and a marker of their own.
        pictures: N paths, Pillow images or arrays (None where a row has none), drawn in place of points. Up to 100 are
            moved apart where they would cover each other, with a line to where they belong; see `spread_sample`.
        method, seed: as for `project`.

    Raises InputError, MissingDependencyError.
    """
    found = project(vectors, method, seed)
    for name, given in (("labels", labels), ("groups", groups), ("pictures", pictures)):
        if given is not None and len(given) != len(found.points):
            raise InputError(f"{name}: wanted {len(found.points)}, one for each vector, found {len(given)}")
    figure = new_figure(5.6, 4.4, title)
    axes = figure.subplots()
    _scatter(axes, found.points, groups, pictures)
    axes.margins(0.09)
    if found.explained is None:
        axes.set(xlabel="UMAP 1", ylabel="UMAP 2")
    else:
        axes.set_xlabel(f"principal axis 1 ({found.explained[0]:.0%} of the variance)")
        axes.set_ylabel(f"principal axis 2 ({found.explained[1]:.0%})")
    axes.set(xticks=[], yticks=[])
    with_picture = [pictures is not None and pictures[i] is not None for i in range(len(found.points))]
    places = _spread(figure, axes, found.points, with_picture)
    for point, place, picture in zip(found.points, places, pictures or (), strict=False):
        if picture is not None:
            if not np.allclose(point, place):
                line: dict[str, Any] = {"color": INK, "linewidth": 0.5, "zorder": 1}
                axes.plot(*zip(point, place, strict=True), marker=".", markersize=2, markevery=[0], **line)
            _place_picture(axes, place, picture)
    if labels is not None and len(labels) <= _LABELLED_UP_TO:
        _place_labels(figure, axes, places, labels, with_picture)
    return figure


def spread_sample(points: np.ndarray, count: int = 60) -> np.ndarray:
    """Row numbers of about `count` points [N, 2] at most, one for each cell of a grid over them, nearest its middle."""
    if len(points) <= count:
        return np.arange(len(points))
    cells = int(np.sqrt(count))
    low, span = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-12)
    at = np.minimum((points - low) / span * cells, cells - 1e-6)
    cell, away = np.floor(at).astype(int) @ [cells, 1], np.abs(at % 1 - 0.5).sum(1)
    order = np.lexsort((away, cell))
    return np.sort(order[np.unique(cell[order], return_index=True)[1]])


def _scatter(axes: Any, points: np.ndarray, groups: Sequence[str] | None, pictures: Sequence[Any] | None) -> None:
    bare = np.array([pictures is None or pictures[i] is None for i in range(len(points))])
    axes.scatter(*points.T, s=0)  # the limits, pictures included
    size = 16 if len(points) <= 500 else 3
    if groups is None:
        axes.scatter(*points[bare].T, s=size, color=PALETTE[0], linewidths=0, zorder=3)
        return
    titles = list(dict.fromkeys(groups))
    if len(titles) > len(PALETTE):
        raise InputError(f"groups: wanted at most {len(PALETTE)} different ones, found {len(titles)}")
    for number, group in enumerate(titles):
        chosen = bare & np.array([one == group for one in groups])
        if chosen.any():
            style = {"color": PALETTE[number], "marker": MARKERS[number], "linewidths": 0}
            axes.scatter(*points[chosen].T, s=size, label=plain(group), zorder=3, **style)
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(loc="outside lower center", ncols=4, markerscale=1.2)


def _place_picture(axes: Any, point: np.ndarray, picture: Any) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    array = picture_array(picture, transparent=True)
    image = OffsetImage(array, zoom=_PICTURE * 72 / max(array.shape[:2]), dpi_cor=True)
    axes.add_artist(AnnotationBbox(image, tuple(point), frameon=False, pad=0, zorder=2))


def _spread(figure: Figure, axes: Any, points: np.ndarray, with_picture: Sequence[bool]) -> np.ndarray:
    """The places of pictures, [N, 2]: moved apart as little as possible until none overlap."""
    chosen = np.flatnonzero(with_picture)
    if not 2 <= len(chosen) <= _SPREAD_UP_TO:
        return points
    shown_at = figure.dpi
    figure.set_dpi(PNG_DPI)
    figure.draw_without_rendering()  # fixes the axes' position
    axes.autoscale(False)  # moved pictures do not change the limits
    at, side = axes.transData.transform(points), 1.05 * _PICTURE * PNG_DPI
    whole = axes.get_window_extent()
    low, high = np.array([whole.min, whole.max]) + [[side / 2], [-side / 2]]
    order = np.sign(np.subtract.outer(chosen, chosen))  # which way equal points go
    for _ in range(_PUSHES):
        gaps = at[chosen][:, None] - at[chosen][None]  # [K, K, 2]
        over = side - np.abs(gaps)
        covers = (over > 0.01).all(-1) & (order != 0)
        if not covers.any():
            break
        ways = np.where(gaps != 0, np.sign(gaps), order[..., None])
        nearer = np.arange(2) == over.argmin(-1)[..., None]  # the shorter way out
        at[chosen] += 0.4 * (ways * over * nearer * covers[..., None]).sum(1)
        at[chosen] = np.clip(at[chosen], low, high)
    moved = axes.transData.inverted().transform(at)
    figure.set_dpi(shown_at)
    return moved


def _place_labels(
    figure: Figure, axes: Any, points: np.ndarray, labels: Sequence[str], with_picture: Sequence[bool]
) -> None:
    """Put each label at the first place where it covers nothing; leave it out if there is none."""
    from matplotlib.transforms import Bbox

    shown_at = figure.dpi
    figure.set_dpi(PNG_DPI)  # letters have slightly other widths at another resolution
    figure.draw_without_rendering()  # fixes the axes' position
    at = axes.transData.transform(points)
    scale = figure.dpi / 72
    half = [(_PICTURE * 36 if picture else 2.5) * scale for picture in with_picture]
    taken = [Bbox.from_extents(x - r, y - r, x + r, y + r) for (x, y), r in zip(at, half, strict=True)]
    whole = axes.get_window_extent()
    for i, label in enumerate(labels):
        away = _PICTURE * 36 - 1 if with_picture[i] else 0
        for right, up in _reach(away):
            across = "left" if right > 0 else "right" if right < 0 else "center"
            along = "bottom" if up > 0 else "top" if up < 0 else "center"
            text = axes.annotate(
                plain(label, 36), points[i], (right, up), textcoords="offset points", ha=across, va=along, fontsize=6
            )
            text.set_in_layout(False)
            box = text.get_window_extent().padded(_MARGIN)
            inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
            others = (other for j, other in enumerate(taken) if j != i)
            if inside and not any(box.overlaps(other) for other in others):
                taken.append(box)
                break
            text.remove()
    figure.set_dpi(shown_at)


def _reach(away: float) -> Iterator[tuple[float, float]]:
    """The places, farther out by `away` points if there is a picture."""
    for right, up in _PLACES:
        yield right + np.sign(right) * away, up + np.sign(up) * away
