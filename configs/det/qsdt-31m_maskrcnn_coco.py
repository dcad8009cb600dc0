# Mask R-CNN, QSD-Transformer 31M, COCO, 12 epochs, wider neck and heads, one
# image a GPU, as published. On how many GPUs is not known; the authors' script
# has three.
_base_ = './qsdt_maskrcnn_coco.py'
width = 384
model = dict(
    backbone=dict(arch='31m'),
    neck=dict(in_channels=[96, 192, 384, 480], out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=4 * width),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width)))
train_dataloader = dict(batch_size=1)
train_cfg = dict(max_epochs=12)
auto_scale_lr = dict(base_batch_size=3)  # 3 x 1
