"""Projection and pooling between SecViT and a linear classifier."""

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class SecViTNeck(BaseModule):
    """1x1 convolution, normalization, SiLU, mean over the map.

    Together with a linear classifier (mmpretrain's ``LinearClsHead``), this is the classification
    head of the authors' released network.

    Args:
        in_channels: Number of channels of the backbone's last stage.
        out_channels: Number of channels that are pooled. Defaults to 1024.
        norm_cfg: Config of the normalization. Defaults to ``dict(type='BN')``.
        init_cfg: Config of the initialization. Defaults to None.

    Example:
        >>> neck = SecViTNeck(in_channels=512)
        >>> neck((torch.randn(2, 512, 7, 7),))[0].shape
        torch.Size([2, 1024])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1024,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.proj = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.norm = build_norm_layer(norm_cfg or dict(type='BN'), out_channels)[1]
        self.act = nn.SiLU()

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Pool the last map of ``inputs``, (B, in_channels, H, W) to (B, out_channels)."""
        x = self.act(self.norm(self.proj(inputs[-1])))
        return (x.mean(dim=(2, 3)),)
