# Cascade Mask R-CNN, QSD-Transformer 15M, spiking neck and heads, COCO, 36
# epochs, 6 images a GPU, as published, but on the quantized backbone, which
# the published config lacks.
_base_ = [
    '../_base_/models/cascade_maskrcnn_spike_qsdt_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_36e_adamw.py', '../_base_/det_runtime.py'
]
train_dataloader = dict(batch_size=6)
