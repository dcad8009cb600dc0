# UPerNet, QSD-Transformer 15M under mmseg's own heads; the recipe of
# qsdt_fpn_ade20k.py.
_base_ = [
    '../_base_/models/upernet_qsdt.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_160k_adamw.py', '../_base_/seg_runtime.py'
]
