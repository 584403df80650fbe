"""Figures for papers and the command line (extra `viz`): each function returns a matplotlib Figure, `save` writes it.

    from triclip import viz
    viz.save(viz.similarity_grid(pictures, texts, clip.similarity(pictures, texts)), "grid.pdf")

pyplot is not used, sizes are in inches at 8 points, colours are safe for all kinds of colour vision, and equal figures
give equal bytes as PNG, SVG or PDF. `triclip.grid` draws the demo's sheet with Pillow alone.
"""

from .explanations import explanations
from .maps import Projection, embedding_map, project
from .page import save_page
from .runs import loss_curves, read_metrics, recall_bars
from .sheets import predictions, retrieval_sheet, search_sheet
from .style import SUFFIXES, check_output, save
from .tables import confusion_counts, confusion_matrix, similarity_grid

__all__ = [
    "SUFFIXES",
    "Projection",
    "check_output",
    "confusion_counts",
    "confusion_matrix",
    "embedding_map",
    "explanations",
    "loss_curves",
    "predictions",
    "project",
    "read_metrics",
    "recall_bars",
    "retrieval_sheet",
    "save",
    "save_page",
    "search_sheet",
    "similarity_grid",
]
