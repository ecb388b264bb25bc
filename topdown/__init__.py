r"""Top-down feedback for multimodal PyTorch models: encodings of the other modalities mask the inputs of each one.

The paper's symbols (MMLatch, Paraskevopoulos et al., 2022) and the names used here:

=================================  ========================  ====================================
paper                              here                      shape
=================================  ========================  ====================================
:math:`i_k`                        `inputs[k]`               (B, T_k, D_k), or (B, D_k)
:math:`r_j`                        `encodings[j]`            (B, T_j, d_j), or (B, d_j)
:math:`h_j`, for a target k        `logits[k][j]`            (B, T_j, D_k)
:math:`f_j`, for a target k        mask of a pair, in (0,1)  (B, T_k, D_k)
:math:`\frac{1}{2} (f_j + f_l)`    `masks[k]`, in (0, 1)     (B, T_k, D_k)
                                   or, by default, (0, 2)
:math:`\tilde i_k`                 masked inputs             (B, T_k, D_k)
Stage I, Stage II                  first and second pass
:math:`a_{kl}, m_{kl}`             `topdown.adapters`        cross-modal, symmetric attention
=================================  ========================  ====================================
"""

from importlib import import_module

from topdown import export  # registers the operator topdown::lstm
from topdown.backbone import Backbone
from topdown.feedback import LinearFeedback, LSTMFeedback, PairwiseFeedback, SharedFeedback, StaticFeedback
from topdown.first_pass import in_first_pass
from topdown.latch import TopDownLatch
from topdown.lstm import SequenceLSTM
from topdown.profile import LatchTrace, MaskProfile, explain, mask_profile
from topdown.sequence import Padded
from topdown.sites import Site

__all__ = ["Backbone", "LatchTrace", "MaskProfile", "Padded", "SequenceLSTM", "Site", "TopDownLatch", "export", "in_first_pass"]
__all__ += ["LSTMFeedback", "LinearFeedback", "PairwiseFeedback", "SharedFeedback", "StaticFeedback", "explain", "mask_profile"]
__version__ = "0.1.0"

_PACKAGES = ("adapters", "cli", "comparison", "datasets", "experiments", "plots", "training")


def __getattr__(name: str) -> object:
    """Imports a package on its first use, such as `topdown.adapters`: `import topdown` alone imports none."""
    if name in _PACKAGES:
        return import_module(f"topdown.{name}")
    raise AttributeError(f"module 'topdown' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_PACKAGES, "__version__"]
