"""Loads, validates, stores and batches multimodal samples.

Works with any model and any training loop. Needs the extra `datasets` (`pip install 'topdown-latch[datasets]'`) for HDF5 files
and progress bars. Imports `topdown`, never the reverse.
"""

from topdown.datasets.batch import Batch as Batch
from topdown.datasets.batch import Sample as Sample
from topdown.datasets.batching import BucketedSampler as BucketedSampler
from topdown.datasets.batching import data_loader as data_loader
from topdown.datasets.data import SequenceDataset as SequenceDataset
from topdown.datasets.errors import DataError as DataError
from topdown.datasets.load import load_splits as load_splits
