"""A trained network that another runtime than PyTorch computes, in the place of the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.deploy.export import any_size_program, onnx_content
from lib.deploy.fold import fold_norms
from lib.deploy.session import load_runtime, open_session
from lib.utils.transforms import STRIDE


class CompiledNetwork(nn.Module):
    """images (B, 3, H, W) -> [(B, C, h, w)] as `network` computes them, on the CPU.

    B is any number, H and W are multiples of 64. BatchNorms are folded. The conversion takes some
    ten seconds. It has no weights that PyTorch could train.
    """

    def __init__(self, network: nn.Module, runtime: str, threads: int = 0) -> None:
        """runtime: one of `lib.deploy.session.RUNTIMES`; threads: 0: as many as PyTorch uses."""
        super().__init__()
        load_runtime(runtime)  # before the conversion: it may be missing
        self.device = nn.Parameter(torch.zeros(()), requires_grad=False)  # which inputs are sent to
        example = torch.zeros(2, 3, 3 * STRIDE, 4 * STRIDE)
        program = any_size_program(fold_norms(network), example, rows=2)
        stages = [f"stage{i}" for i in range(len(program.graph_signature.user_outputs))]
        threads = threads or torch.get_num_threads()
        self.run = open_session(onnx_content(program, stages), runtime, threads)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in self.run(images.contiguous().numpy())]
