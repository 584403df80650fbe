"""One checkpoint through every backend, compared field by field."""

from typing import TYPE_CHECKING

from clip_core.lazy import lazy_names

# public name -> the module that defines it
_HOME = {
    "Break": "report",
    "Report": "report",
    "Row": "report",
    "conform": "run",
    "draw_report": "figure",
    "save_reference": "run",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .figure import draw_report
    from .report import Break, Report, Row
    from .run import conform, save_reference

__getattr__, __dir__ = lazy_names(__name__, _HOME)
