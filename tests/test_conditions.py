"""Sets of parameters as conditions in an ejected script."""

import torch
from torch import nn

from ptkit.core.ejecting.conditions import condition


class Overlapping(nn.Module):
    """The whole name of one parameter is the beginning of another's."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 2))
        self.pos_embed_win = nn.Parameter(torch.zeros(1, 2))
        self.fc = nn.Linear(2, 2)


def test_a_name_that_begins_another_is_compared_whole():
    model, wanted = Overlapping(), {"pos_embed", "fc.bias"}
    code = condition(model, wanted)
    named = model.named_parameters()
    assert {name for name, p in named if eval(code, {"name": name, "parameter": p})} == wanted
