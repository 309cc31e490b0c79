"""Statistics of a comparison: intervals, planning and the verdict.

    wilson(71, 100)                                # the interval of one share
    found = paired_difference(reference, candidate, groups)
    decide(found.interval90, found.interval95, -0.02, 0.02)   # "EQUIVALENT", "DIFFERENT" or "INCONCLUSIVE"

Everything is a fraction (0.02 is two points) unless a name says otherwise; a difference is candidate minus reference; ``broke``
counts items that the reference has right and the candidate wrong, ``fixed`` the other way round. One idea a module: ``shares``,
``paired`` (right or wrong on the same items), ``clusters``, ``resampling`` and ``corpus`` (bootstrap), ``continuous``,
``difference`` (what callers use), ``planning`` (how many items), ``verdict``, ``several`` (many claims at once).
"""

from workbench.metrics.stats.clusters import cluster_bootstrap, cluster_interval, mean_interval
from workbench.metrics.stats.continuous import t_interval, tost_paired
from workbench.metrics.stats.corpus import corpus_interval, paired_bootstrap, ratio_interval
from workbench.metrics.stats.difference import PairedDifference, paired_difference, quality_of_inference
from workbench.metrics.stats.paired import mcnemar, tango
from workbench.metrics.stats.planning import equivalence_power, items_for_width, items_needed, items_planned
from workbench.metrics.stats.several import holm
from workbench.metrics.stats.shares import wilson
from workbench.metrics.stats.verdict import DIFFERENT, EQUIVALENT, INCOMPARABLE, INCONCLUSIVE, Margin, decide

__all__ = [
    "DIFFERENT",
    "EQUIVALENT",
    "INCOMPARABLE",
    "INCONCLUSIVE",
    "Margin",
    "PairedDifference",
    "cluster_bootstrap",
    "cluster_interval",
    "corpus_interval",
    "decide",
    "equivalence_power",
    "holm",
    "items_for_width",
    "items_needed",
    "items_planned",
    "mcnemar",
    "mean_interval",
    "paired_bootstrap",
    "paired_difference",
    "quality_of_inference",
    "ratio_interval",
    "t_interval",
    "tango",
    "tost_paired",
    "wilson",
]
