"""Weights on a grid of 8 bits with corrected biases, and the damage of layers."""

from __future__ import annotations

import copy

import onnx
import pytest
import torch
from torch import Tensor, nn

from lib.deploy.damage import layer_damage
from lib.deploy.equalize import channel_ranges, equalize
from lib.deploy.fold import fold_norms
from lib.deploy.quantize import connect_to_floats, layer_of, quantized_nodes, signed_inputs
from lib.deploy.round_weights import in_8_bits, input_ranges, round_weights, rounded

IMAGES = [torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]


class Small(nn.Module):
    """Two convolutions and two outputs; the first weights nearly cancel a constant input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.last(self.first(x + 20).relu())
        return [y, y[:, :2]]


@pytest.fixture
def network() -> Small:
    return Small().eval()


def test_weights_are_on_a_grid_of_their_channel_and_rounding_again_changes_nothing(network):
    weight = network.first.weight.detach()
    once = rounded(weight)
    step = weight.abs().amax(dim=(1, 2, 3)) / 127
    steps = once / step[:, None, None, None]
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert (once - weight).abs().amax(dim=(1, 2, 3)).le(step / 2 * 1.001).all()
    torch.testing.assert_close(rounded(once), once, rtol=1e-6, atol=0)
    assert not rounded(torch.zeros(2, 3, 1, 1)).any()


def test_maps_have_256_values_and_zero_is_one_of_them():
    x = torch.linspace(-1, 3, 1001)
    y = in_8_bits(x, -1, 3)
    assert len(y.unique()) == 256
    assert (y - x).abs().max() <= 4 / 255
    assert in_8_bits(torch.zeros(1), -1, 3).item() == 0
    assert in_8_bits(torch.tensor([9.0]), -1, 3).item() <= 3.01
    assert not in_8_bits(torch.zeros(4), 0, 0).any()


def test_biases_absorb_the_mean_error(network):
    """20 is added to the inputs: the error of a weight is a shift, which the bias takes off."""
    corrected, plain = copy.deepcopy(network), copy.deepcopy(network)
    round_weights(corrected, IMAGES)
    with torch.no_grad():
        for layer in (plain.first, plain.last):
            layer.weight.copy_(rounded(layer.weight))
        errors = [
            sum((ours(x)[0] - network(x)[0]).mean(dim=(0, 2, 3)).abs().max() for x in IMAGES)
            for ours in (corrected, plain)
        ]
    assert torch.equal(corrected.first.weight, plain.first.weight)
    assert corrected.last.bias is not None  # it had none
    assert errors[0] < errors[1] / 3


def test_a_layer_in_floats_keeps_its_weights(network):
    before = copy.deepcopy(network.state_dict())
    round_weights(network, IMAGES, floats=["first"])
    assert torch.equal(network.first.weight, before["first.weight"])
    assert torch.equal(network.first.bias, before["first.bias"])
    assert not torch.equal(network.last.weight, before["last.weight"])


def test_the_damage_of_a_layer_is_that_of_its_inputs_alone(network):
    table = layer_damage(network, IMAGES, joints=2)
    assert sorted(one.layer for one in table) == ["first", "last"]
    assert table[0].share >= table[1].share > 0
    low = min(float((x + 20).min()) for x in IMAGES)
    assert low > 0
    with torch.no_grad():
        high = sum(float((x + 20).max()) for x in IMAGES) / len(IMAGES)
        change = total = 0.0
        for x in IMAGES:
            expected = network(x)[0]
            y = network.last(network.first(in_8_bits(x + 20, 0.0, high)).relu())
            change += (y - expected)[:, :2].square().mean().item()
            total += expected[:, :2].square().mean().item()
    [first] = [one.share for one in table if one.layer == "first"]
    assert first >= change / total * 0.999  # heatmaps; tags may have lost more
    for layer in (network.first, network.last):
        assert not layer._forward_pre_hooks


class Uneven(nn.Module):
    """Channels of very different ranges before `second`, `depthwise` and `third`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(4, 6, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.third = nn.Conv2d(4, 4, 1)
        with torch.no_grad():
            sizes = torch.tensor([1, 0.1, 5, 0])  # the last channel is dead
            self.first.weight *= sizes[:, None, None, None]
            self.first.bias *= sizes
            self.depthwise.bias *= sizes
            self.second.weight /= sizes.clamp(min=0.1)[:, None, None]  # all matter as much
            self.third.weight /= sizes.clamp(min=0.1)[:, None, None]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(x)
        return [self.second(x), self.third(self.relu(self.depthwise(x)))]


def test_channels_of_equal_ranges_leave_a_network_the_same_and_lose_less_in_8_bits():
    network = fold_norms(Uneven().eval())
    before = copy.deepcopy(network)
    assert equalize(network, "second", IMAGES)
    assert equalize(network, "third", IMAGES)
    torch.testing.assert_close(network(IMAGES[0]), before(IMAGES[0]), rtol=1e-4, atol=1e-4)
    ranges = channel_ranges(network, network.second, IMAGES)
    torch.testing.assert_close(ranges[:3], ranges[2].expand(3))
    assert ranges[3] == 0
    names = ["second", "third"]
    shares = [layer_damage(one, IMAGES, 2, names) for one in (before, network)]
    worst, now = ({one.layer: one.share for one in table} for table in shares)
    assert sorted(now) == names
    assert all(now[name] < worst[name] / 10 for name in names)


class Clipped(nn.Module):
    """What computes or reads a map does not allow other channels: ReLU6, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU6()
        self.second = nn.Conv2d(3, 3, 1)
        self.third = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.second(self.relu(self.first(x)))
        return [self.third(y) + y, x]


class Twice(nn.Module):
    """The same layer reads two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.second = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.second(self.first(x)), self.second(x)]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Clipped, "first"), (Clipped, "second"), (Clipped, "third"), (Twice, "second")],
)
def test_ranges_stay_where_what_computes_or_reads_a_map_does_not_allow_others(kind, name):
    network = fold_norms(kind().eval())
    before = copy.deepcopy(network.state_dict())
    assert not equalize(network, name, IMAGES)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_transposed_convolutions_read_signed_integers_unless_nothing_is_negative():
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "a"], ["y"]),
        make("Relu", ["y"], ["z"]),
        make("ConvTranspose", ["z", "b"], ["s"]),
        make("ConvTranspose", ["y", "c"], ["t"]),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], []))
    assert list(signed_inputs(model)) == ["y"]


def test_one_image_of_large_values_does_not_set_the_range(network):
    images = [*IMAGES, 50 * IMAGES[0]]
    [(low, high)] = input_ranges(network, [network.last], images).values()
    with torch.no_grad():
        highest = [network.first(x + 20).relu().max().item() for x in images]
    assert low == 0
    assert high == pytest.approx(sum(highest) / 4)


def test_layers_in_floats_and_sums_are_not_quantized():
    names = {"network.a.0.weight": "a.0", "a.0.bias": "a.0"}
    assert {text: layer_of(text) for text in names} == names
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "network.a.0.weight"], ["y"], "one"),
        make("Clip", ["y"], ["z"], "two"),
        make("Add", ["z", "x"], ["s"], "three"),
        make("Conv", ["s", "network.b.weight"], ["t"], "four"),
        make("Clip", ["t"], ["u"], "five"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], []))
    assert quantized_nodes(model) == ["one", "two", "four"]
    assert quantized_nodes(model, floats=["a.0"]) == ["two", "four"]


def test_a_layer_in_floats_reads_maps_before_they_are_rounded():
    """a -> ReLU -> b, c: the quantizer leaves out the ReLU, whose bounds are those of rounding."""
    make, constant = onnx.helper.make_node, onnx.helper.make_tensor
    original = [
        make("Conv", ["x", "network.a.weight"], ["y"], "a"),
        make("Relu", ["y"], ["z"], "relu"),
        make("Conv", ["z", "network.b.weight"], ["s"], "b"),
        make("Conv", ["z", "network.c.weight"], ["t"], "c"),
    ]
    quantized = [
        make("Conv", ["x", "network.a.weight"], ["z"], "a"),
        make("QuantizeLinear", ["z", "scale"], ["q"]),
        make("DequantizeLinear", ["q", "scale"], ["d"]),
        make("Conv", ["d", "network.b.weight"], ["s"], "b"),
        make("Conv", ["d", "network.c.weight"], ["t"], "c"),
    ]

    def connected(*floats: str) -> list[tuple[str, str, str]]:
        scale = [constant("scale", onnx.TensorProto.FLOAT, [], [0.1])]
        first = onnx.helper.make_graph(original, "original", [], [])
        graph = onnx.helper.make_graph(quantized, "graph", [], [], scale)
        connect_to_floats(graph, first, floats)
        pairs = [node for node in graph.node if node.op_type.endswith("izeLinear")]
        assert len(graph.initializer) == bool(pairs)
        return [(node.op_type, node.input[0], node.output[0]) for node in graph.node]

    pair = [("QuantizeLinear", "z", "q"), ("DequantizeLinear", "q", "d")]
    a, relu = ("Conv", "x", "y"), ("Relu", "y", "z")
    readers = [("Conv", "d", "s"), ("Conv", "d", "t")]
    assert connected() == connected("a") == [("Conv", "x", "z"), *pair, *readers]
    assert connected("b") == [a, relu, *pair, ("Conv", "z", "s"), readers[1]]
    assert connected("b", "c") == [a, relu, ("Conv", "z", "s"), ("Conv", "z", "t")]
