# Semantic FPN whose spiking neck and head have 4-bit weights too, on digits
# scenes. The auxiliary head, which serves training alone, stays float.
_base_ = './qsdt_fpn_digits.py'
model = dict(neck=dict(weight_bits=4), decode_head=dict(weight_bits=4))
