"""The paper's experiment: data, metrics, training, tables and figures.

Needs the extra `experiments` (`pip install 'topdown-latch[experiments]'`) for figures, progress bars and HDF5 files. This
package imports `topdown`, never the reverse.
"""

from topdown.experiments.batching import BucketedSampler as BucketedSampler
from topdown.experiments.batching import data_loader as data_loader
from topdown.experiments.data import Batch as Batch
from topdown.experiments.data import Sample as Sample
from topdown.experiments.data import SequenceDataset as SequenceDataset
from topdown.experiments.errors import DataError as DataError
from topdown.experiments.load import load_splits as load_splits
from topdown.experiments.metrics import classification_metrics as classification_metrics
from topdown.experiments.metrics import sentiment_metrics as sentiment_metrics
from topdown.experiments.synthetic import synthetic_splits as synthetic_splits
