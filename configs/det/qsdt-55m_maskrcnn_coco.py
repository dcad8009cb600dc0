# Mask R-CNN, QSD-Transformer 55M, COCO. Nothing was published for this size:
# the neck, heads and recipe of the 15M one, for 12 epochs.
_base_ = './qsdt_maskrcnn_coco.py'
model = dict(
    backbone=dict(arch='55m'), neck=dict(in_channels=[128, 256, 512, 640]))
train_cfg = dict(max_epochs=12)
