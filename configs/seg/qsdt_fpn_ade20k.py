# Semantic FPN, QSD-Transformer 15M, spiking neck and head, ADE20K, 2 x 16,
# 160k iterations, as published. Start from an ImageNet checkpoint:
#   --cfg-options model.backbone.init_cfg.type=Pretrained
#                 model.backbone.init_cfg.checkpoint=qsdt_imagenet.pth
_base_ = [
    '../_base_/models/fpn_spike_qsdt.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_160k_adamw.py', '../_base_/seg_runtime.py'
]
