import torch

from mmsecvit import SecViTNeck


def test_neck_projects_normalizes_activates_and_averages():
    neck = SecViTNeck(6, 10).double().eval()
    torch.nn.init.normal_(neck.norm.running_mean)
    maps = (torch.randn(2, 3, 8, 8), torch.randn(2, 6, 3, 5, dtype=torch.float64))
    x = torch.einsum('bchw,oc->bohw', maps[1], neck.proj.weight[:, :, 0, 0])
    x = x + neck.proj.bias[:, None, None]
    x = (x - neck.norm.running_mean[:, None, None]) / (1 + 1e-5) ** 0.5
    expected = (x * torch.sigmoid(x)).mean((2, 3))
    (out,) = neck(maps)
    torch.testing.assert_close(out, expected)
