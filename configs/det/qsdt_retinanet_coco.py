# RetinaNet, QSD-Transformer 15M, spiking neck and head, COCO, 36 epochs, 6
# images a GPU. The published config cannot run, and its rate rises to the end;
# here it drops as in the cascade's.
_base_ = [
    '../_base_/models/retinanet_spike_qsdt_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_36e_adamw.py', '../_base_/det_runtime.py'
]
train_dataloader = dict(batch_size=6)
