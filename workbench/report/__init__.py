"""Reports of runs: one page that says what was found, with a Markdown twin and CSV files.

    from workbench.report import write_report
    path = write_report([reference, candidate], "reports/first-look")     # .../index.html

Reads bundles only: no runtime, no network. ``plot_differences`` and ``plot_scores`` draw the same pictures with matplotlib.
"""

from workbench.report.folder import write, write_report
from workbench.report.plots import plot_differences, plot_scores

__all__ = ["plot_differences", "plot_scores", "write", "write_report"]
