# QSD-Transformer 15M, from ImageNet to CIFAR-100; see qsdt_cifar10.py.
_base_ = './qsdt_cifar10.py'
model = dict(
    data_preprocessor=dict(num_classes=100), head=dict(num_classes=100))
data = dict(type='CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = val_dataloader
