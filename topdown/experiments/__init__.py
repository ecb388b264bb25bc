"""The paper's experiment: metrics, training, tables and figures.

Needs the extra `experiments` (`pip install 'topdown-latch[experiments]'`) for figures, progress bars and HDF5 files. Imports
`topdown` and `topdown.datasets`, never the reverse.
"""

from topdown.experiments.compare import compare as compare
from topdown.experiments.compare_report import read_comparison as read_comparison
from topdown.experiments.compare_report import write_report as write_report
from topdown.experiments.metrics import classification_metrics as classification_metrics
from topdown.experiments.metrics import sentiment_metrics as sentiment_metrics
from topdown.experiments.models import load_model as load_model
from topdown.experiments.rows import Metric as Metric
from topdown.experiments.synthetic import synthetic_splits as synthetic_splits
from topdown.experiments.training import fit as fit
from topdown.experiments.training import predict as predict
