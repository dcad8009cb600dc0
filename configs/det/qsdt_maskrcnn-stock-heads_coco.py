# Mask R-CNN, QSD-Transformer 15M under mmdet's own neck and heads; the recipe
# of qsdt_maskrcnn_coco.py.
_base_ = [
    '../_base_/models/maskrcnn_qsdt_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_15e_adamw.py', '../_base_/det_runtime.py'
]
