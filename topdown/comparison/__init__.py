"""Compares models with and without feedback on any data, with seeds, intervals and controls.

Needs the extra `experiments` (`pip install 'topdown-latch[experiments]'`).
"""

from topdown.comparison.compare import compare as compare
from topdown.comparison.report import read_comparison as read_comparison
from topdown.comparison.report import write_report as write_report
from topdown.comparison.variants import Metric as Metric
