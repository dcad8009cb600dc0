# Mask R-CNN, QSD-Transformer 15M, spiking neck and heads, COCO, 3 x 8, 15
# epochs, as published but for the last tap, which has stride 32 here, where
# anchors and RoI extractors expect it. Start from an ImageNet checkpoint:
#   --cfg-options model.backbone.init_cfg.type=Pretrained
#                 model.backbone.init_cfg.checkpoint=qsdt_imagenet.pth
_base_ = [
    '../_base_/models/maskrcnn_spike_qsdt_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_15e_adamw.py', '../_base_/det_runtime.py'
]
