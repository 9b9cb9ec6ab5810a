"""Layer normalization."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """LayerNorm that keeps half precision under CUDA's autocast.

    Autocast converts tokens to float32 before the norm and back after it: two passes more over
    the map. The kernel computes means and variances in float32 in any case. Float32 tokens
    stay float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        if not (x.is_cuda and torch.is_autocast_enabled() and x.dtype != torch.float32):
            return super().forward(x)
        with torch.autocast('cuda', enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
