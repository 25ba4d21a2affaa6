"""A look at pairs as the model reads them, before anything is trained."""

from iwpo_fast.preview.lines import preview_lines
from iwpo_fast.preview.look import look_at, rows_numbered, typical

__all__ = ["look_at", "preview_lines", "rows_numbered", "typical"]
