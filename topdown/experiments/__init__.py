"""The paper's experiment: synthetic data, sentiment metrics, tables and figures.

Needs the extra `experiments` (`pip install 'topdown-latch[experiments]'`) for figures, progress bars and HDF5 files.
"""

from topdown.experiments.synthetic import synthetic_splits as synthetic_splits
from topdown.training.metrics import sentiment_metrics as sentiment_metrics
