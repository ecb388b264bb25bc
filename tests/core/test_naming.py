import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from topdown.feedback import ModalityDict

names = st.lists(
    st.text(max_size=8) | st.sampled_from(["keys", "names", "training", "a.b", "a%2Eb", "forward", "_modules", "_parameters"]),
    unique=True,
)


@given(names)
def test_any_name_finds_its_module(names):
    modules = {name: nn.Linear(1, i + 1) for i, name in enumerate(names)}
    by_name = ModalityDict(modules)
    assert list(by_name) == names
    assert len(by_name) == len(names)
    assert all(by_name[name] is module and name in by_name for name, module in modules.items())
    assert len(list(by_name.parameters())) == 2 * len(names)
    by_name.load_state_dict(by_name.state_dict())


def test_plain_names_are_keys_of_the_state_dict():
    assert list(ModalityDict({"text": nn.Linear(1, 1)}).state_dict()) == ["text.weight", "text.bias"]


def test_errors():
    with pytest.raises(KeyError, match="no module for 'audio': there are 'text'"):
        ModalityDict({"text": nn.Identity()})["audio"]
    with pytest.raises(TypeError, match=r"'text' must be a torch.nn.Module, got int"):
        ModalityDict({"text": 3})
