# QSD-Transformer 15M, ImageNet-1k, 8 x 196, 300 epochs, as published.
_base_ = [
    '../_base_/models/qsdt_cls.py', '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300e_lamb.py', '../_base_/cls_runtime.py'
]
