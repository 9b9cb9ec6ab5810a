"""Define the released SecViT in plain PyTorch: the benchmarks compare the package with it.

Channels are first, three gathers bring queries, keys and values into their order, a second sort
finds the way back, and every attention matrix is held in memory. Names are those of the released
weights. The number of clusters has to divide the number of tokens.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class RotaryEmbedding(nn.Module):
    def __init__(self, head_dims: int) -> None:
        super().__init__()
        frequencies = 10000 ** -torch.linspace(0, 1, head_dims // 4)
        self.register_buffer('angle', frequencies.repeat_interleave(2))

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, each (height * width, head_dims)."""
        rows = torch.arange(height, device=self.angle.device)[:, None, None] * self.angle
        columns = torch.arange(width, device=self.angle.device)[:, None] * self.angle
        angles = torch.cat(
            [rows.expand(-1, width, -1), columns.expand(height, -1, -1)], dim=-1
        ).flatten(0, 1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cos + turned * sin


class Attention(nn.Module):
    def __init__(self, channels: int, num_heads: int, num_clusters: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_clusters = num_clusters
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.out_proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        batch, channels, height, width = x.shape
        length, dims = height * width, channels // self.num_heads
        qkv = self.qkv(x)
        local = self.lepe(qkv[:, -channels:])
        q, k, v = qkv.reshape(batch, 3, self.num_heads, dims, length).transpose(3, 4).unbind(1)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)

        center = k.mean(2, keepdim=True)
        similarity = (F.normalize(k, dim=-1) * F.normalize(center, dim=-1)).sum(-1)
        order = similarity.argsort(-1)
        index = order[..., None].expand_as(q)
        q, k, v = (
            x.gather(2, index).unflatten(2, (self.num_clusters, length // self.num_clusters))
            for x in (q, k, v)
        )
        weights = (q @ k.transpose(-2, -1) * dims**-0.5).softmax(-1)
        out = (weights @ v).flatten(2, 3)
        out = out.gather(2, order.argsort(-1)[..., None].expand_as(out))
        out = out.transpose(2, 3).reshape(batch, channels, height, width)
        return self.out_proj(out + local)


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        return self.fc2(x + self.dwconv(x))


class Block(nn.Module):
    def __init__(
        self,
        channels: int,
        num_heads: int,
        num_clusters: int,
        hidden: int,
        drop_path_rate: float,
        layer_scale: bool,
    ) -> None:
        super().__init__()
        self.pos = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = ChannelNorm(channels)
        self.attn = Attention(channels, num_heads, num_clusters)
        self.norm2 = ChannelNorm(channels)
        self.ffn = FeedForward(channels, hidden)
        self.drop_path = DropPath(drop_path_rate)
        self.gamma_1 = self.gamma_2 = 1
        if layer_scale:
            self.gamma_1 = nn.Parameter(torch.full((1, channels, 1, 1), 1e-6))
            self.gamma_2 = nn.Parameter(torch.full((1, channels, 1, 1), 1e-6))

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.pos(x)
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x), rotary))
        return x + self.drop_path(self.gamma_2 * self.ffn(self.norm2(x)))


class Stage(nn.Module):
    def __init__(self, blocks: Sequence[Block], head_dims: int, channels: int, out: int | None):
        super().__init__()
        self.RoPE = RotaryEmbedding(head_dims)
        self.blocks = nn.ModuleList(blocks)
        self.downsample = None
        if out is not None:
            self.downsample = nn.ModuleDict(
                dict(reduction=nn.Conv2d(channels, out, 3, 2, 1), norm=nn.BatchNorm2d(out))
            )

    def forward(self, x: Tensor) -> Tensor:
        rotary = self.RoPE(x.shape[2], x.shape[3])
        for block in self.blocks:
            x = block(x, rotary)
        return x


class ReleasedSecViT(nn.Module):
    """Compute the four maps of images (B, 3, H, W), as the released network without its head."""

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        num_clusters: Sequence[int] = (32, 8, 2, 1),
        ffn_ratio: float = 3,
        drop_path_rate: float = 0.0,
        layer_scale: Sequence[bool] = (False,) * 4,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict(dict(proj=_stem(embed_dims[0])))
        rates = torch.linspace(0, drop_path_rate, sum(depths)).split(list(depths))
        self.layers = nn.ModuleList()
        for i, channels in enumerate(embed_dims):
            blocks = [
                Block(
                    channels,
                    num_heads[i],
                    num_clusters[i],
                    int(channels * ffn_ratio),
                    rate.item(),
                    layer_scale[i],
                )
                for rate in rates[i]
            ]
            out = embed_dims[i + 1] if i < 3 else None
            self.layers.append(Stage(blocks, channels // num_heads[i], channels, out))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.patch_embed['proj'](x)
        outs = []
        for stage in self.layers:
            x = stage(x)
            outs.append(x)
            if stage.downsample is not None:
                x = stage.downsample['norm'](stage.downsample['reduction'](x))
        return tuple(outs)


def _stem(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    widths = (3, channels // 2, channels // 2, channels // 2, channels)
    for i, stride in enumerate((2, 1, 1, 2)):
        layers += [
            nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1),
            nn.BatchNorm2d(widths[i + 1]),
            nn.GELU(),
        ]
    return nn.Sequential(*layers[:-1])
