import pytest
import torch
from torch import nn

from mmsecvit import SecViT
from mmsecvit.backbones.base import find_backbone


class Detector(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def secvit():
    with torch.device('meta'):
        return SecViT()


def test_the_backbone_of_a_model_is_found():
    outer, inner = Detector(nn.Linear(1, 1)), Detector(secvit())
    outer.head = inner
    assert find_backbone(outer) is outer.backbone
    assert find_backbone(nn.Sequential(inner)) is inner.backbone
    unnamed = secvit()
    assert find_backbone(nn.Sequential(unnamed, nn.ReLU())) is unnamed
    assert find_backbone(unnamed) is unnamed


def test_of_several_backbones_the_one_that_is_trained_is_found():
    models = nn.ModuleDict(dict(teacher=Detector(secvit()), student=Detector(secvit())))
    models['teacher'].requires_grad_(False)
    assert find_backbone(models) is models['student'].backbone


def test_a_model_without_a_backbone_is_named():
    with pytest.raises(ValueError, match='^the model must have a backbone, got a Linear$'):
        find_backbone(nn.Linear(1, 1))
