"""Reports of runs: one page that says what was found, with a Markdown twin and CSV files.

    from workbench.report import write_report
    path = write_report([reference, candidate], "reports/first-look")     # .../index.html

Reads bundles only: no runtime, no network. ``plot_differences``, ``plot_scores`` and ``plot_drift`` draw the same pictures with matplotlib.
"""

from workbench.report.drift import plot_drift
from workbench.report.folder import write, write_report
from workbench.report.plots import plot_differences, plot_scores
from workbench.report.zoo import write_zoo_report

__all__ = ["plot_differences", "plot_drift", "plot_scores", "write", "write_report", "write_zoo_report"]
