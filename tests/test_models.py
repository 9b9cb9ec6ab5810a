import pytest
import torch

import mmsecvit
from mmsecvit import get_model, list_models

pytest.importorskip('mmpretrain')


def test_all_networks_of_table_8_are_listed():
    assert list_models('secvit_*') == ['secvit_b', 'secvit_l', 'secvit_s', 'secvit_t']
    assert list_models('*swin*') == ['sec_swin_s', 'sec_swin_t']
    assert list_models('*fastervit*') == ['sec_fastervit_0', 'sec_fastervit_1']
    assert list_models('sec_swin') == ['sec_swin_s', 'sec_swin_t']
    assert len(list_models()) == 8


# Table 8. tests/test_configs holds the others' configs against the same table of networks.
@pytest.mark.parametrize(('name', 'params'), [('secvit_t', 15), ('sec_fastervit_0', 25)])
def test_parameters_of_table_8(name, params):
    model = get_model(name)
    assert not model.training
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == params


def test_a_checkpoint_gives_the_same_classifier(tmp_path):
    model = get_model('secvit_t')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'secvit_t.pth')
    again = get_model('secvit_t', pretrained=tmp_path / 'secvit_t.pth')
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    with pytest.raises(ValueError, match='is not of secvit_s: .* weights are missing in the file'):
        get_model('secvit_s', pretrained=tmp_path / 'secvit_t.pth')


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="name must be one of sec_fastervit_0.*, got 'resnet'"):
        get_model('resnet')
    with pytest.raises(ValueError, match='pretrained must be a checkpoint or False, got True'):
        get_model('secvit_t', pretrained=True)
    with pytest.raises(FileNotFoundError, match='none.pth does not exist'):
        mmsecvit.get_model('secvit_t', pretrained=tmp_path / 'none.pth')
