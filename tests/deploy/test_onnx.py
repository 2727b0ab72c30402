"""ReLU6 that is exported as `clamp`: the ONNX model computes what PyTorch does."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lib.deploy.export import onnx_content

HARDTANH, CLAMP = torch.ops.aten.hardtanh_.default, torch.ops.aten.clamp.default


class Scaled(nn.Module):
    """ReLU6 in place; `has_view`: of a tensor with a view, which is read afterwards."""

    def __init__(self, *, has_view: bool) -> None:
        super().__init__()
        self.has_view = has_view
        self.relu6 = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 10
        first = x[:, :1] if self.has_view else 1
        return self.relu6(x) + first


@pytest.mark.parametrize("has_view", [False, True])
def test_relu6_in_place_has_the_values_of_pytorch(has_view):
    module = Scaled(has_view=has_view)
    x = torch.linspace(-1, 1, 24).reshape(1, 2, 3, 4)
    program = torch.export.export(module, (x,))
    session = onnxruntime.InferenceSession(onnx_content(program, ["y"]))
    [found] = session.run(None, {"images": x.numpy()})
    np.testing.assert_allclose(found, module(x).numpy(), rtol=1e-6)


def test_the_program_stays_as_it_was():
    """It is also written as it is, for PyTorch (model.pt2)."""
    program = torch.export.export(Scaled(has_view=False), (torch.zeros(1, 2, 3, 4),))
    onnx_content(program, ["y"])
    targets = [node.target for node in program.graph.nodes]
    assert HARDTANH in targets
    assert CLAMP not in targets
