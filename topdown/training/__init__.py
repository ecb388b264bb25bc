"""Trains models on sequences, and predicts with them.

Imports `topdown` and `topdown.datasets`, never the reverse.
"""

from topdown.training.metrics import classification_metrics as classification_metrics
from topdown.training.model_file import load_model as load_model
from topdown.training.prediction import predict as predict
from topdown.training.protocol import fit as fit
from topdown.training.scaled_output import ScaledOutput as ScaledOutput
from topdown.training.stopping import Stopped as Stopped
