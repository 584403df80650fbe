"""Figures: their numbers and words, not their pixels; and reproducible files."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="extra `viz`")

from matplotlib.image import AxesImage  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from clip_core.errors import DataError, InputError, MissingDependencyError  # noqa: E402
from triclip import viz  # noqa: E402
from triclip.conform import Break, Report, Row, draw_report  # noqa: E402
from triclip.explain import Explanation  # noqa: E402
from triclip.viz.explanations import overlay  # noqa: E402
from triclip.viz.runs import running_mean  # noqa: E402
from triclip.viz.style import PALETTE, RIGHT, WRONG, plain, wrapped  # noqa: E402


def picture(colour=(200, 40, 40), size=(30, 20)):
    return Image.new("RGB", size, colour)


def words_of(figure):
    """All text, after the figure was laid out."""
    figure.draw_without_rendering()
    return [text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_text()]


def cells_of(axes):
    """(column, row) -> the number written there."""
    return {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}


# -- tables -----------------------------------------------------------------------------------------------------------


def test_the_grid_shows_each_value_in_its_cell_and_frames_each_texts_best():
    values = np.array([[0.1, 0.9], [0.5, -0.25], [0.3, -0.001]])  # 3 pictures, 2 texts
    figure = viz.similarity_grid([picture()] * 3, ["a cat", "costs $5 and $6"], values, title="T")
    axes = figure.axes[0]
    wanted = {(0, 0): "0.10", (1, 0): "0.50", (2, 0): "0.30", (0, 1): "0.90", (1, 1): "−0.25", (2, 1): "0.00"}
    assert cells_of(axes) == wanted
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a cat", r"costs \$5 and \$6"]
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(round(f.get_x() + 0.46), round(f.get_y() + 0.44)) for f in frames] == [(1, 0), (0, 1)]
    np.testing.assert_array_equal(axes.images[0].get_array(), values.T)
    assert len(axes.images) == 1 + 3 and {"T", "cosine similarity"} <= set(words_of(figure))


def test_pictures_of_the_grid_keep_their_proportions_and_columns():
    figure = viz.similarity_grid([picture(size=(40, 20)), picture(size=(20, 40))], ["x"], np.zeros((2, 1)))
    axes = figure.axes[0]
    figure.draw_without_rendering()
    for column, (image, ratio) in enumerate(zip(axes.images[1:], (2, 0.5), strict=True)):
        left, right, bottom, top = image.get_extent()
        (x0, y0), (x1, y1) = axes.transData.transform([(left, bottom), (right, top)])
        assert abs(x1 - x0) / abs(y1 - y0) == pytest.approx(ratio, rel=0.02)
        assert (left + right) / 2 == pytest.approx(column)


def test_confusion_is_counted_and_shown_by_row():
    truth, predicted = [0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 0, 2]
    np.testing.assert_array_equal(viz.confusion_counts(truth, predicted, 3), [[2, 1, 0], [0, 1, 0], [1, 0, 1]])
    figure = viz.confusion_matrix(truth, predicted, ["cat", "dog", "emu"])
    # (predicted, true): percent of the true class; nothing is written into empty cells
    assert cells_of(figure.axes[0]) == {(0, 0): "67", (1, 0): "33", (1, 1): "100", (0, 2): "50", (2, 2): "50"}
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cat", "dog", "emu"]
    assert figure.axes[0].get_ylabel() == "true" and figure.axes[0].get_xlabel() == "predicted"
    counts = viz.confusion_matrix(truth, predicted, ["cat", "dog", "emu"], normalize=False)
    assert cells_of(counts.axes[0])[(0, 0)] == "2"
    large = viz.confusion_matrix(range(100), range(100), [f"class {i}" for i in range(100)])
    assert not large.axes[0].texts and max(large.get_size_inches()) < 9


# -- sheets -----------------------------------------------------------------------------------------------------------


def test_the_retrieval_sheet_shows_scores_and_tells_right_from_wrong():
    results, scores = [[picture(), "a text"], [picture()]], [[0.91, 0.5], [0.25]]
    figure = viz.retrieval_sheet(["a red thing", picture()], results, scores, right=[[True, False], [False]])
    words = words_of(figure)
    assert {"query", "a red thing", "a text", "0.910 ✓", "0.500 ✗", "0.250 ✗"} <= set(words)
    grid = np.array(figure.axes).reshape(2, 3)
    colours = [axes.spines["left"].get_edgecolor() for axes in (grid[0, 1], grid[0, 2], grid[1, 1])]
    from matplotlib.colors import to_rgba

    assert colours == [to_rgba(RIGHT), to_rgba(WRONG), to_rgba(WRONG)]
    assert sum(len(axes.images) for axes in figure.axes) == 3
    assert not grid[1, 2].axison
    assert "✓" not in "".join(words_of(viz.retrieval_sheet(["x"], [[picture()]], [[0.5]])))


def test_predictions_are_bars_as_long_as_their_probability():
    ranked = [[("cat", 0.7), ("dog", 0.2), ("emu", 0.1)], [("emu", 0.6), ("cat", 0.4), ("dog", 0)]]
    figure = viz.predictions([picture(), picture()], ranked, truth=["cat", "dog"], top=2)
    bars = [[patch.get_width() for patch in figure.axes[i].patches] for i in (1, 3)]
    assert bars == [[0.7, 0.2], [0.6, 0.4]]
    assert {"cat", "70.0%", "dog", "20.0%", "emu", "60.0%"} <= set(words_of(figure))
    from matplotlib.colors import to_rgba

    assert [p.get_facecolor() for p in figure.axes[1].patches] == [to_rgba(RIGHT), to_rgba(WRONG)]


# -- explanations -----------------------------------------------------------------------------------------------------


def explanation(patches):
    shown = np.full((60, 60, 3), 128, np.uint8)
    words = ("a", "cat")
    return Explanation(shown, np.asarray(patches, np.float32), words, np.array([0.1, 0.4], np.float32), 0.31, "rollout")


def test_the_overlay_is_hot_where_the_patches_are():
    one = explanation([[0, 0, 0], [0, 0, 5], [0, 0, 0]])
    image = overlay(one)
    assert image.shape == (60, 60, 3) and image.min() >= 0 and image.max() <= 1
    redness = image[..., 0] - image[..., 2]
    assert np.unravel_index(redness.argmax(), redness.shape)[1] >= 40  # the right third
    assert 20 <= np.unravel_index(redness.argmax(), redness.shape)[0] < 40  # the middle row
    assert abs(redness[:, :20]).max() < 0.05 * redness.max()
    assert np.ptp(overlay(explanation(np.zeros((3, 3))))) == 0


def test_explanations_show_words_scores_and_the_similarity():
    figure = viz.explanations([explanation(np.eye(3)), explanation(np.eye(3))])
    assert {"similarity 0.31", "rollout", "a", "cat"} <= set(words_of(figure))
    assert [patch.get_width() for patch in figure.axes[2].patches] == pytest.approx([0.25, 1])
    empty = Explanation(np.zeros((9, 9, 3), np.uint8), np.zeros((3, 3)), (), np.zeros(0), 0.0, "relevance")
    viz.explanations(empty).draw_without_rendering()


# -- maps -------------------------------------------------------------------------------------------------------------


def test_pca_is_that_of_the_singular_values(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 0.5, 0.1] + 7
    centred = vectors - vectors.mean(0)
    left, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(6), np.abs(axes).argmax(1)])[:2]
    for block in (1 << 14, 7):
        monkeypatch.setattr("triclip.viz.maps._BLOCK", block)
        found = viz.project(vectors)
        np.testing.assert_allclose(found.points, (left * sizes)[:, :2] * signs, atol=1e-4)
        assert found.explained == pytest.approx(tuple(sizes[:2] ** 2 / (sizes**2).sum()))
    flat = viz.project(np.array([[1.0], [3.0]]))
    np.testing.assert_allclose(flat.points, [[-1, 0], [1, 0]])
    assert viz.project(np.ones((3, 4))).points.tolist() == [[0, 0]] * 3


def test_pictures_of_the_map_do_not_cover_each_other():
    from matplotlib.offsetbox import AnnotationBbox

    near = np.repeat(np.eye(3), 4, 0) + np.random.default_rng(0).normal(0, 1e-3, (12, 3))
    near[1] = near[0]  # the same point
    figure = viz.embedding_map(near, pictures=[picture(size=(20, 20))] * 12)
    figure.set_dpi(200)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [one.get_window_extent() for one in axes.findobj(AnnotationBbox)]
    assert len(boxes) == 12
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    starts = np.array([line.get_xydata()[0] for line in axes.lines])  # where those that were moved belong
    assert len(starts) >= 6
    apart = np.abs(starts[:, None] - viz.project(near).points[None]).max(-1)
    assert (apart.min(1) < 1e-6).all()
    assert not viz.embedding_map(near).axes[0].lines


def test_the_map_draws_points_groups_pictures_and_labels():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(12, 5)), [f"point {i}" for i in range(12)]
    pictures = [picture()] * 3 + [None] * 9
    figure = viz.embedding_map(vectors, labels, ["left"] * 6 + ["right"] * 6, pictures)
    axes = figure.axes[0]
    drawn = {c.get_label(): c.get_offsets() for c in axes.collections if len(c.get_offsets()) < 12}
    points = viz.project(vectors).points
    np.testing.assert_allclose(drawn["left"], points[3:6])
    np.testing.assert_allclose(drawn["right"], points[6:])
    assert len(figure.findobj(AxesImage)) == 0 and sum(type(a).__name__ == "AnnotationBbox" for a in axes.artists) == 3
    words = words_of(figure)
    assert {"left", "right", "point 0"} <= set(words) and any("of the variance" in word for word in words)


def test_labels_of_the_map_do_not_overlap():
    rng = np.random.default_rng(1)
    figure = viz.embedding_map(rng.normal(size=(60, 4)), [f"a longer label {i}" for i in range(60)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) > 20
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_umap_is_used_when_installed_and_named_when_not(monkeypatch):
    class UMAP:
        def __init__(self, n_neighbors, metric, random_state, n_jobs):
            assert (n_neighbors, metric, random_state, n_jobs) == (4, "cosine", 3, 1)

        def fit_transform(self, array):
            return array[:, :2] * 2

    vectors = np.random.default_rng(0).normal(size=(5, 3))
    monkeypatch.setitem(sys.modules, "umap", type(sys)("umap"))
    sys.modules["umap"].UMAP = UMAP
    found = viz.project(vectors, "umap", seed=3)
    np.testing.assert_allclose(found.points, vectors[:, :2] * 2, rtol=1e-6)
    assert found.explained is None
    with pytest.raises(InputError, match="at least 5 rows, found 4"):
        viz.project(vectors[:4], "umap")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingDependencyError, match="umap-learn"):
        viz.project(vectors, "umap")


# -- runs -------------------------------------------------------------------------------------------------------------


def records(count, **more):
    return [{"step": 10 * i, "loss": 5 - 0.01 * i, "lr": 1e-3, **more} for i in range(1, count + 1)]


def test_curves_hold_the_figures_of_every_run(tmp_path):
    (tmp_path / "run").mkdir()
    lines = [json.dumps(record) for record in records(3, loss_scale=None)]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 40, "lo')
    assert viz.read_metrics(tmp_path / "run") == viz.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in viz.read_metrics(tmp_path / "run")] == [10, 20, 30]
    figure = viz.loss_curves({"first": tmp_path / "run", "second": records(2, grad_norm=float("nan"))})
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles == ["loss", "gradient norm", "learning rate"]
    curves = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(curves["first"].get_xydata(), [[10, 4.99], [20, 4.98], [30, 4.97]])
    np.testing.assert_allclose(curves["second"].get_xydata(), [[10, 4.99], [20, 4.98]])
    assert {"first", "second", "step"} <= set(words_of(figure))
    assert np.isnan(figure.axes[1].lines[-1].get_ydata()).all()


def test_long_runs_are_drawn_with_their_running_mean():
    noisy = [{"step": i, "loss": float(i % 2)} for i in range(100)]
    faint, mean = viz.loss_curves(noisy).axes[0].lines
    np.testing.assert_allclose(faint.get_ydata(), [i % 2 for i in range(100)])
    np.testing.assert_allclose(mean.get_ydata()[3:], 0.5)  # of four
    values = np.array([1.0, np.nan, 3.0, 5.0, np.nan, np.nan])
    np.testing.assert_allclose(running_mean(values, 2), [1, 1, 3, 4, 5, np.nan])


def test_broken_metrics_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(DataError, match="a.jsonl, line 2"):
        viz.read_metrics(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('[1]\n{"step": 2}\n')
    with pytest.raises(DataError, match="line 1: wanted an object with a step"):
        viz.read_metrics(tmp_path / "a.jsonl")
    with pytest.raises(FileNotFoundError, match="absent"):
        viz.read_metrics(tmp_path / "absent")
    with pytest.raises(InputError, match="found none of loss"):
        viz.loss_curves([{"step": 1}])


def test_recall_bars_are_percent():
    result = {"R@1": 0.25, "R@5": 0.5, "MRR": 0.4}
    both = {"image_to_text": result, "text_to_image": {key: value / 2 for key, value in result.items()}, "images": 7}
    figure = viz.recall_bars({"before": both, "after": both})
    assert [patch.get_height() for patch in figure.axes[0].patches] == pytest.approx([25, 50, 40] * 2)
    assert [patch.get_height() for patch in figure.axes[1].patches] == pytest.approx([12.5, 25, 20] * 2)
    assert {"25.0", "12.5", "R@5", "MRR", "image to text", "text to image", "before", "after"} <= set(words_of(figure))
    plain_figure = viz.recall_bars({"model": result})
    assert len(plain_figure.axes) == 1 and "50.0" in words_of(plain_figure)
    with pytest.raises(InputError, match="'after': wanted shares for R@1"):
        viz.recall_bars({"before": result, "after": {"R@1": 25.0, "R@5": 0.5, "MRR": 0.1}})


# -- conformance ------------------------------------------------------------------------------------------------------


def report():
    rows = [
        Row("pixel_values", "preprocessing", "tf", 0.0, 1e-5),
        Row("vision_model_output.hidden_states.0", "embeddings", "tf", 2e-7, 1e-5),
        Row("vision_model_output.hidden_states.0", "embeddings", "flax", 3e-7, 1e-5),
        Row("text_model_output.hidden_states.1", "layer 0", "tf", 5e-2, 1e-5),
        Row("text_model_output.hidden_states.1", "layer 0", "flax", float("inf"), 1e-5),
        Row("attention_mask", "tokenizer", "tf", 0.0, 1e-5),
        Row("logits_per_image", "logits", "tf", 4e-7, 1e-5),
    ]
    breaks = [Break("text", "text_model_output.hidden_states.1", "layer 0", "tf", 5e-2, 1e-5)]
    return Report("emoji", "full", "torch", ["torch", "tf", "flax"], "float32", rows, breaks, {}, [])


def test_the_report_draws_every_error_by_tower():
    for given in (report(), json.loads(json.dumps(report().to_dict()))):
        figure = draw_report(given)
        panels = {axes.get_title(): axes for axes in figure.axes}
        assert list(panels) == ["vision tower", "text tower", "both towers"]
        lines = {line.get_label(): line for line in panels["vision tower"].lines}
        np.testing.assert_allclose(lines["tf"].get_xydata(), [[0, 1e-9], [1, 2e-7]])
        np.testing.assert_allclose(lines["flax"].get_xydata(), [[1, 3e-7]])
        text = panels["text tower"].lines
        rings = [line.get_xydata() for line in text if line.get_fillstyle() == "none"]
        assert len(rings) == 2 and rings[0][0, 1] == pytest.approx(5e-2)
        assert rings[1][0, 1] == pytest.approx(0.1)  # infinite: at the upper edge, inside
        assert rings[1][0, 1] < panels["text tower"].get_ylim()[1]
        words = words_of(figure)
        assert {"hidden 0", "hidden 1", "logits_per_image", "tolerance", "tf", "flax", "attention_mask"} <= set(words)
        assert "emoji: tf, flax against torch (float32)" in words


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_figure_is_the_same_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        figure = viz.similarity_grid([picture()], ["größer"], np.array([[0.5]]))
        assert viz.save(figure, tmp_path / "new" / f"{name}{suffix}") == tmp_path / "new" / f"{name}{suffix}"
    first, second = sorted((tmp_path / "new").iterdir())
    assert first.read_bytes() == second.read_bytes() and first.stat().st_size > 1000


def test_other_suffixes_and_failures_leave_nothing(tmp_path, monkeypatch):
    figure = viz.recall_bars({"a": {"R@1": 0.5}})
    with pytest.raises(InputError, match=r"a.gif: wanted a name ending in .pdf, .png, .svg"):
        viz.save(figure, tmp_path / "a.gif")
    with pytest.raises(InputError, match="a.gif"):
        viz.check_output(tmp_path / "a.gif")
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        viz.save(figure, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_caller_stay():
    import matplotlib

    matplotlib.use("svg")  # a caller's own choice, which rc_context does not put back
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 33, "text.usetex": True}):
        figure = viz.recall_bars({"a": {"R@1": 0.5}})
        assert matplotlib.rcParams["font.size"] == 33
        assert max(text.get_fontsize() for text in figure.findobj(Text)) < 20
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == "svg"


def test_figures_leave_pyplot_alone_and_import_late():
    program = """
import sys
import triclip.viz as viz
assert "matplotlib" not in sys.modules
viz.recall_bars({"a": {"R@1": 0.5}}).draw_without_rendering()
import matplotlib.pyplot as plt
assert plt.get_fignums() == []
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_labels_are_one_line_and_never_formulas():
    assert plain("a\n\tb\x00c $x^2$") == r"a b c \$x^2\$"
    assert plain("x" * 50, 10) == "x" * 9 + "…"
    assert wrapped("one two three four five six", 9, 2) == "one two\nthree …"
    figure = viz.recall_bars({r"$\bad{": {"R@1": 0.5}, "other": {"R@1": 0.5}})
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: viz.similarity_grid([picture()], ["a"], np.zeros((2, 1))), r"values: wanted numbers \(1, 1\)"),
        (lambda: viz.similarity_grid([picture()], ["a"], np.full((1, 1), np.nan)), "values: wanted finite"),
        (lambda: viz.similarity_grid([picture()] * 65, ["a"], np.zeros((65, 1))), "at most 64"),
        (lambda: viz.similarity_grid([], [], np.zeros((0, 0))), "at least one"),
        (lambda: viz.confusion_matrix([0], [0, 1], ["a", "b"]), "predicted: wanted 1 class numbers"),
        (lambda: viz.confusion_matrix([0], [2], ["a", "b"]), "predicted: wanted classes from 0 to 1, found 2"),
        (lambda: viz.confusion_matrix([], [], []), "names: wanted at least one"),
        (lambda: viz.retrieval_sheet([], [], []), "wanted 1 to 40 queries"),
        (lambda: viz.retrieval_sheet(["a"], [["b"]], [[]]), "query 0"),
        (lambda: viz.predictions([picture()], []), "as many rankings"),
        (lambda: viz.explanations([]), "at least one"),
        (lambda: viz.project(np.zeros((1, 3))), "at least two rows"),
        (lambda: viz.project(np.full((3, 3), np.inf)), "finite"),
        (lambda: viz.project(np.eye(3), "tsne"), "pca, umap, found 'tsne'"),
        (lambda: viz.embedding_map(np.eye(3), ["a"]), "labels: wanted 3"),
        (lambda: viz.embedding_map(np.eye(9), groups=list("abcdefghi")), f"at most {len(PALETTE)} different"),
        (lambda: viz.recall_bars({}), "wanted 1 to 7 results"),
        (lambda: viz.recall_bars({"a": {"images": 5}}), "wanted shares such as R@1"),
        (lambda: draw_report({}), "wanted a report"),
        (lambda: draw_report({"rows": [{"field": "x"}]}), "wanted a report"),
    ],
)
def test_bad_input_says_what_was_wanted(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_a_figure_shows_itself_in_a_notebook():
    """Without pyplot or a magic line; equal figures are equal bytes, and the size on the page is part of it."""
    first, second = (viz.recall_bars({"a": {"R@1": 0.5, "MRR": 1.0}})._repr_png_() for _ in range(2))
    assert first == second and first[0].startswith(b"\x89PNG")
    width, height = Image.open(io.BytesIO(first[0])).size
    assert abs(width / height - first[1]["width"] / first[1]["height"]) < 0.02 and first[1]["width"] == 363


def test_the_search_sheet_wraps_and_names():
    found = [picture() for _ in range(8)]
    figure = viz.search_sheet("a query", found, [0.9 - 0.1 * i for i in range(8)], [f"name {i}" for i in range(8)])
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 8 and len({round(axes.get_position().y0, 2) for axes in shown}) == 2
    assert [axes.get_xlabel() for axes in shown] == [f"name {i}" for i in range(8)]
    assert shown[7].get_title() == "0.200" and "a query" in words_of(figure)
    with pytest.raises(InputError, match="one score and one name"):
        viz.search_sheet("x", found, [0.5])


def test_clusters_and_their_names():
    from triclip.viz.clusters import cluster_names, clusters

    rng = np.random.default_rng(0)
    middles = np.eye(4, 16)[:3]
    vectors = np.repeat(middles, 20, 0) + 0.05 * rng.normal(size=(60, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = clusters(vectors, 3)
    assert len({tuple(numbers[start : start + 20]) for start in (0, 20, 40)}) == 3
    assert all(len(set(numbers[start : start + 20])) == 1 for start in (0, 20, 40))
    names = cluster_names(vectors, numbers, ["cat", "dog", "car", "sky"], np.eye(4, 16))
    assert [names[numbers[start]].split(", ")[0] for start in (0, 20, 40)] == ["cat", "dog", "car"]
    assert clusters(vectors[:2], 7).tolist() in ([0, 1], [1, 0], [0, 0])


def test_thumbnails_are_spread_over_a_map():
    from triclip.viz.maps import spread_sample

    points = np.random.default_rng(0).random((2000, 2))
    chosen = spread_sample(points, 60)
    assert 40 <= len(chosen) <= 60 and len(set(chosen.tolist())) == len(chosen)
    gaps = np.linalg.norm(points[chosen][:, None] - points[chosen][None], axis=-1) + 9 * np.eye(len(chosen))
    assert gaps.min() > 0.03
    assert spread_sample(points[:5]).tolist() == [0, 1, 2, 3, 4]


def test_a_map_as_a_page(tmp_path):
    names = ["</script><b>", "ordinary", "猫"]
    (tmp_path / "broken.png").write_bytes(b"none")
    pictures = [picture(), tmp_path / "broken.png", picture()]
    viz.save_page(tmp_path / "map.html", np.eye(3), names, ["a", "b", "a"], pictures, title="T</script>")
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 1 and "http" not in text.replace("http-equiv", "")
    data = json.loads(text.split("const data = ", 1)[1].split(";\n", 1)[0])
    assert [item["name"] for item in data["items"]] == names and data["items"][0]["group"] == "a"
    assert ["picture" in item for item in data["items"]] == [True, False, True]
    assert all(0 <= item[axis] <= 1 for item in data["items"] for axis in "xy")
    with pytest.raises(InputError, match="ending in .html"):
        viz.save_page(tmp_path / "map.pdf", np.eye(3), names)
