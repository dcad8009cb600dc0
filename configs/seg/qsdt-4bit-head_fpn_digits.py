# Semantic FPN with a spiking neck and head of 4 bits: another name of
# qsdt_fpn_digits.py, which has them too.
_base_ = './qsdt_fpn_digits.py'
