import re

import pytest

from mmsecvit.apis.config import load_config


def test_an_absent_config_is_named():
    with pytest.raises(FileNotFoundError, match='^config configs/mine.py does not exist$'):
        load_config('configs/mine.py')


def test_the_toolbox_of_an_inherited_model_is_the_default_scope(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'\n")
    assert load_config(config).default_scope == 'mmdet'


def test_a_module_that_is_not_found_is_named(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['mmsecvit', 'absent.module_of_mine'])")
    with pytest.raises(ValueError, match=r'there is no absent.module_of_mine in .* of PYTHONPATH'):
        load_config(config)
    # A module that fails is another matter.
    (tmp_path / 'failing_module_of_mine.py').write_text('import absent')
    config.write_text("custom_imports = dict(imports=['failing_module_of_mine'])")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(ImportError):
            load_config(config)


def test_options_with_an_unknown_first_part_are_said(tmp_path, recwarn):
    config = tmp_path / 'mine.py'
    config.write_text('train_dataloader = dict(batch_size=1)\nclasses = ["a"]\n')
    known = {'train_dataloader.batch_size': 2, 'classes': ['b'], 'compile': True, 'resume': True}
    load_config(config, cfg_options={**known, 'load_from': 'x.pth', 'randomness.seed': 0})
    assert not [warning for warning in recwarn if 'cfg_options' in str(warning.message)]
    message = (
        'cfg_options has train_dataloder.batch_size, but neither the config nor mmengine has '
        'train_dataloder, so that it may have no effect; train_dataloader may be meant.'
    )
    with pytest.warns(UserWarning, match=re.escape(message)):
        load_config(config, cfg_options={'train_dataloder.batch_size': 2})
