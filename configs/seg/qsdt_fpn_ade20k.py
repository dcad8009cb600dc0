# Semantic FPN, QSD-Transformer 15M, ADE20K, 2 x 16, 160k iterations, as
# published but for the neck and head, which are the frameworks' own.
_base_ = [
    '../_base_/models/fpn_qsdt.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_160k_adamw.py', '../_base_/seg_runtime.py'
]
