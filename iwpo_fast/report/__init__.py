"""The command `iwpo report`: what a run has done, on one page that needs nothing beside itself."""

from iwpo_fast.report.command import is_whole, report_run, write_page
from iwpo_fast.report.run_files import RunFiles

__all__ = ["RunFiles", "is_whole", "report_run", "write_page"]
