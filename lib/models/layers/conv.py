"""Convolutions with their BatchNorm: the building blocks of every network here."""

from __future__ import annotations

from torch import nn

from lib.models.layers.depthwise import DepthwiseConv2d

# kernel -> (padding, output_padding) of a transposed convolution that doubles a map exactly
DECONV_GEOMETRY = {4: (1, 0), 3: (1, 1), 2: (0, 0)}


def conv_bn(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, depthwise: bool = False
) -> list[nn.Module]:
    """A convolution without bias that keeps the size (up to its stride), and its BatchNorm.

    depthwise: every channel has its own filter; in_channels must equal out_channels.
    """
    if depthwise:
        conv = DepthwiseConv2d(out_channels, kernel, stride)
    else:
        conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False
        )
    return [conv, nn.BatchNorm2d(out_channels)]


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(*conv_bn(in_channels, out_channels, kernel, stride), nn.ReLU(inplace=True))


def conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, depthwise: bool = False
) -> nn.Sequential:
    return nn.Sequential(
        *conv_bn(in_channels, out_channels, kernel, stride, depthwise), nn.ReLU6(inplace=True)
    )


def deconv2x(in_channels: int, out_channels: int, kernel: int) -> nn.ConvTranspose2d:
    """(B, in, h, w) -> (B, out, 2h, 2w); kernels 4, 3 and 2, no bias."""
    if kernel not in DECONV_GEOMETRY:
        raise ValueError(f"deconv kernel {kernel}; possible: {sorted(DECONV_GEOMETRY)}")
    padding, output_padding = DECONV_GEOMETRY[kernel]
    return nn.ConvTranspose2d(
        in_channels,
        out_channels,
        kernel,
        stride=2,
        padding=padding,
        output_padding=output_padding,
        bias=False,
    )
