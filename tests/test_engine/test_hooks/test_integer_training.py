from mmqsdt.engine.hooks import integer_training
from mmqsdt.registry import HOOKS


def test_the_hook_of_before_says_that_it_does_nothing(monkeypatch):
    said = []
    monkeypatch.setattr(integer_training, 'print_log',
                        lambda message, *args: said.append(message))
    for kwargs in ({}, dict(kernels=False)):
        hook = HOOKS.build(dict(type='mmqsdt.IntegerTrainingHook', **kwargs))
        hook.before_train(None)
    assert len(said) == 2 and 'remove it from custom_hooks' in said[0]
