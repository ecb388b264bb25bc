"""Backbones that are ready to be wrapped by :class:`topdown.TopDownLatch`."""

from topdown.adapters.callable import CallableBackbone as CallableBackbone
from topdown.adapters.hooked import HookedBackbone as HookedBackbone
from topdown.adapters.lstm import LSTMBackbone as LSTMBackbone
from topdown.adapters.mult import MulTBackbone as MulTBackbone
