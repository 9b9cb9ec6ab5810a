import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_fsdp_stays_on_the_cpu_and_frees_nothing_there():
    from mmsecvit.engine.strategies import ResumableFSDPStrategy

    strategy = ResumableFSDPStrategy(state_dict_cfg='full')
    assert strategy.model_wrapper == dict(device_id='cpu')
    assert strategy.state_dict_type.name == 'FULL_STATE_DICT'
    assert not strategy.state_dict_config.offload_to_cpu
    assert not strategy.optim_state_dict_config.offload_to_cpu
    assert strategy.state_dict_config.rank0_only
