# QSD-Transformer 15M, from ImageNet to CIFAR-10. No recipe was published;
# this is a common one for fine-tuning, 2 x 128. Start from an ImageNet
# checkpoint:
#   --cfg-options model.backbone.init_cfg.type=Pretrained
#                 model.backbone.init_cfg.checkpoint=qsdt-learned_imagenet.pth
# Published weights need the published threshold besides:
#                 model.backbone.neuron.threshold=0.25
#                 model.head.neuron.threshold=0.25
_base_ = [
    '../_base_/models/qsdt_cls.py', '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_100e_adamw.py', '../_base_/cls_runtime.py'
]
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
model = dict(
    # The images are RGB in the files.
    data_preprocessor=dict(num_classes=10, to_rgb=False),
    backbone=dict(neuron=neuron),
    head=dict(num_classes=10, neuron=neuron))
