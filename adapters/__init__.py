"""Backbones that are ready to be wrapped by :class:`topdown.TopDownLatch`."""

from topdown.adapters.lstm import LSTMBackbone as LSTMBackbone
from topdown.adapters.mult import MulTBackbone as MulTBackbone
