"""Ready-made backbones for :class:`topdown.TopDownLatch`."""

from topdown.adapters.callable import CallableBackbone as CallableBackbone
from topdown.adapters.film import FiLM as FiLM
from topdown.adapters.hooked import HookedBackbone as HookedBackbone
from topdown.adapters.lstm import LSTMBackbone as LSTMBackbone
from topdown.adapters.mult import MulTBackbone as MulTBackbone
from topdown.adapters.with_inputs import WithInputs as WithInputs
from topdown.adapters.with_inputs import read_other_inputs as read_other_inputs
