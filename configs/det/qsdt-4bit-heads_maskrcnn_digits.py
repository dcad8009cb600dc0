# Mask R-CNN with a spiking neck and heads of 4 bits: another name of
# qsdt_maskrcnn_digits.py, which has them too.
_base_ = './qsdt_maskrcnn_digits.py'
