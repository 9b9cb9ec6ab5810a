"""Half precision, pure and by autocast: nothing overflows, and training works."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.io import ImageReadMode, read_image
from torchvision.transforms.v2.functional import resize

from mmsecvit import SECFasterViT, SECSwin, SecViT
from mmsecvit.backbones import sec_fastervit, sec_swin

HALF = [torch.float16, torch.bfloat16]
MICRO = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
BACKBONES = {
    'paper': lambda: SecViT(MICRO),
    'released': lambda: SecViT(dict(MICRO, layer_scale=(False, False, True, True)), 'released'),
    'windows': lambda: SecViT(MICRO, 'released', attention='window'),
    'kmeans': lambda: SecViT(MICRO, 'released', attention='kmeans'),
    'stripes': lambda: SecViT(dict(MICRO, num_heads=(2, 2, 2, 4)), attention='cswin', stem='patch'),
    'SECSwin': lambda: SECSwin('micro'),
    'SECFasterViT': lambda: SECFasterViT('micro'),
}
IMAGES = {
    'of 1e4': lambda: torch.randn(2, 3, 50, 70).clamp(-1, 1) * 1e4,
    'of 1e-6': lambda: torch.randn(2, 3, 50, 70) * 1e-6,
    'black': lambda: torch.zeros(2, 3, 50, 70),
    'of one color': lambda: torch.tensor([1.5, -0.5, 0.3])[:, None, None].expand(2, 3, 50, 70),
}


@pytest.fixture(autouse=True)
def micro_architectures(monkeypatch):
    micro = dict(MICRO, drop_path_rate=0.0)
    monkeypatch.setitem(sec_swin.ARCHITECTURES, 'micro', micro)
    monkeypatch.setitem(sec_fastervit.ARCHITECTURES, 'micro', dict(micro, stem_dims=8))


@pytest.mark.parametrize('image', IMAGES)
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('name', BACKBONES)
def test_maps_and_gradients_stay_finite(name, dtype, autocast, image):
    # In training, batch norms multiply the noise of black images by 300 in each layer, and
    # gradients exceed float16.
    backbone, x = BACKBONES[name]().train(dtype == torch.bfloat16), IMAGES[image]()
    if not autocast:
        backbone, x = backbone.to(dtype), x.to(dtype)
    with torch.autocast('cpu', dtype, enabled=autocast):
        outs = backbone(x)
    sum(out.float().sin().mean() for out in outs).backward()
    assert all(out.isfinite().all() for out in outs)
    for parameter, p in backbone.named_parameters():
        assert p.grad.isfinite().all(), parameter
    for buffer, b in backbone.named_buffers():
        assert b.isfinite().all(), buffer


@pytest.fixture(scope='module')
def real_images(coco_excerpt):
    """Quarters of eight images of COCO as (32, 3, 40, 40), normalized."""
    paths = sorted((coco_excerpt / 'train2017').glob('*.jpg'))
    images = [resize(read_image(str(path), ImageReadMode.RGB), [80, 80]) for path in paths]
    corners = [(0, 0), (0, 40), (40, 0), (40, 40)]
    quarters = [image[:, y : y + 40, x : x + 40] for y, x in corners for image in images]
    return (torch.stack(quarters) - 116.0) / 58.0


def train(backbone, images, dtype, steps, scaler):
    """Learn the mean color of the pixels under each token, and return the losses."""
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
    losses = []
    for i in range(steps):
        batch = images[torch.arange(4) + 4 * i % len(images)]
        with torch.autocast('cpu', dtype):
            outs = backbone(batch)
        loss = sum(
            F.mse_loss(out[:, :3].float(), F.adaptive_avg_pool2d(batch, out.shape[2:]))
            for out in outs
        )
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return torch.tensor(losses)


def assert_finite(backbone):
    assert all(x.isfinite().all() for x in backbone.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize('dtype', HALF)
def test_200_mixed_precision_steps_on_real_images(real_images, dtype):
    backbone = SecViT(MICRO, 'released', out_norm=True, out_indices=(0, 3)).train()
    scaler = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16)
    losses = train(backbone, real_images, dtype, 200, scaler)
    assert losses.isfinite().all()
    assert losses[-20:].mean() < 0.8 * losses[:20].mean()
    assert_finite(backbone)


def test_loss_scaling_recovers_from_an_overflow(real_images):
    backbone = SecViT(MICRO, 'released', out_norm=True, out_indices=(0,)).train()
    before = {name: p.clone() for name, p in backbone.named_parameters()}
    # With this factor, gradients overflow float16.
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**40)
    train(backbone, real_images, torch.float16, 1, scaler)
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(p, before[name]) for name, p in backbone.named_parameters())
    losses = train(backbone, real_images, torch.float16, 40, scaler)
    assert losses.isfinite().all()
    assert scaler.get_scale() < 2.0**39
    assert not any(torch.equal(p, before[name]) for name, p in backbone.named_parameters())
    assert_finite(backbone)
