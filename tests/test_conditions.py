"""Sets of parameters as conditions in an ejected script."""

import torch
from torch import nn

from ptkit.core.ejecting.conditions import condition
from ptkit.core.ejecting.optimization import layer_lookup
from ptkit.core.models.layers import parameters_by_layer


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


class Layered(nn.Module):
    """The whole name of a parameter of the first layer is how the last one's begin."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.zeros(2, 2))
        self.body = nn.Linear(2, 2)
        self.embed_out = nn.Linear(2, 2)


def test_each_parameter_gets_the_layer_that_it_is_in():
    layers = parameters_by_layer(Layered())
    assert layers == [["embed", "body.weight", "body.bias"], ["embed_out.weight", "embed_out.bias"]]
    texts, code = layer_lookup(layers)
    for number, names in enumerate(layers):
        for name in names:
            scope = {"name": name, "layers": texts}
            exec(code, scope)
            assert scope["number"] == number, name
