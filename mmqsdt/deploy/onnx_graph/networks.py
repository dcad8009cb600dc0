"""Which tensors of a whole network an ONNX file puts out."""

import json

from torch import nn

from .graph import unsupported

PARTS = ('whole', 'backbone')


def network_outputs(model: nn.Module, images, part: str = 'whole') -> dict:
    """Run a network up to its raw outputs.

    Args:
        model (nn.Module): A backbone, or a model of MMPretrain, MMDetection
            or MMSegmentation.
        images (Tensor | Value): (B, C, H, W), normalised.
        part (str): 'whole', or 'backbone' for it alone.
            Defaults to 'whole'.

    Returns:
        dict: By name, maps (B, C, H, W) or features (B, C):

        - backbone: feat0, feat1, ..., one for each of its out_indices;
        - network of one's own: output, if it is one tensor;
        - classifier: logits;
        - segmenter: logits, of the size that the head computes;
        - dense detector: cls0, bbox0, ..., of each level;
        - two-stage detector: rpn_cls0, rpn_bbox0, ... of each level, and
          feat0, ..., the maps that regions are cut from.
    """
    if part == 'backbone' or not hasattr(model, 'backbone'):
        outputs = getattr(model, 'backbone', model)(images)
        return numbered(feat=outputs) if isinstance(
            outputs, (tuple, list)) else dict(output=outputs)
    features = model.extract_feat(images)
    if hasattr(model, 'roi_head'):
        scores, deltas = model.rpn_head(features)
        return numbered(rpn_cls=scores, rpn_bbox=deltas, feat=features)
    if hasattr(model, 'bbox_head'):
        outputs = model.bbox_head(features)
        if len(outputs) != 2:
            raise unsupported(f'a {type(model.bbox_head).__name__}')
        return numbered(cls=outputs[0], bbox=outputs[1])
    if hasattr(model, 'decode_head'):
        return dict(logits=model.decode_head(features))
    if getattr(model, 'head', None) is not None:
        return dict(logits=model.head(features))
    return numbered(feat=features)


def output_fact(model: nn.Module, part: str = 'whole') -> str:
    """Say what the outputs still need, according to the model's heads."""
    if part == 'backbone' or not hasattr(model, 'backbone'):
        return 'maps of the backbone, the finest first'
    if hasattr(model, 'decode_head'):
        head = model.decode_head
        while isinstance(head, nn.ModuleList):  # of a cascade
            head = head[-1]
        text = 'bilinear resize to the image (align_corners=' \
            f'{getattr(head, "align_corners", False)}), '
        if getattr(head, 'out_channels', 2) == 1:
            return text + f'sigmoid, class 1 where above {head.threshold}'
        return text + 'argmax over the channels'
    for name, words in (('rpn_head', 'proposals, RoIAlign, then the heads'),
                        ('bbox_head', 'decode on anchors, NMS')):
        if hasattr(model, name):
            sigmoid = getattr(getattr(model, name), 'use_sigmoid_cls', True)
            return f'{"sigmoid" if sigmoid else "softmax"} of the scores, ' \
                + words
    if getattr(model, 'head', None) is not None:
        several = 'MultiLabel' in type(model.head).__name__
        return 'sigmoid, each class by itself' if several else \
            'softmax or argmax over the classes'
    return 'features'


def output_rules(model: nn.Module, part: str = 'whole') -> dict[str, str]:
    """Say it for a program: task, activation, and what decoding takes.

    Empty for a part, and for what a program alone cannot finish.
    """
    if part == 'backbone' or not hasattr(model, 'backbone') or \
            hasattr(model, 'roi_head'):
        return {}
    if hasattr(model, 'decode_head'):
        head = model.decode_head
        while isinstance(head, nn.ModuleList):  # of a cascade
            head = head[-1]
        rules = dict(task='segment', activation='argmax',
                     align_corners=str(getattr(head, 'align_corners', False)))
        if getattr(head, 'out_channels', 2) == 1:
            rules.update(activation='sigmoid', threshold=str(head.threshold))
        return rules
    if hasattr(model, 'bbox_head'):
        head = model.bbox_head
        sigmoid = getattr(head, 'use_sigmoid_cls', True)
        return dict(task='detect',
                    activation='sigmoid' if sigmoid else 'softmax',
                    **anchor_rules(head))
    if getattr(model, 'head', None) is not None:
        several = 'MultiLabel' in type(model.head).__name__
        return dict(task='classify',
                    activation='sigmoid' if several else 'softmax')
    return {}


def anchor_rules(head: nn.Module) -> dict[str, str]:
    """Anchors, coder and NMS of a dense head; empty if they are others."""
    anchors = getattr(head, 'prior_generator', None)
    coder = getattr(head, 'bbox_coder', None)
    config = getattr(head, 'test_cfg', None) or {}
    nms = config.get('nms') or {}
    if type(anchors).__name__ != 'AnchorGenerator' or \
            type(coder).__name__ != 'DeltaXYWHBBoxCoder' or \
            coder.add_ctr_clamp or nms.get('type', 'nms') != 'nms':
        return {}

    def number(name: str) -> int | None:
        return max(config.get(name, -1), 0) or None

    return dict(decode=json.dumps(dict(
        strides=[list(s) for s in anchors.strides],
        base_anchors=[b.tolist() for b in anchors.base_anchors],
        means=list(coder.means), stds=list(coder.stds),
        wh_ratio_clip=16 / 1000,
        score_thr=config.get('score_thr', 0),
        min_bbox_size=config.get('min_bbox_size', -1),
        nms_pre=number('nms_pre'),
        iou_threshold=nms.get('iou_threshold', 1),
        max_per_img=number('max_per_img'))))


def region_fact(head: nn.Module) -> str:
    """Say what the outputs of a head on regions still need."""
    loss = getattr(head, 'loss_cls', None)
    if loss is None:
        return 'sigmoid of the masks, pasting'
    sigmoid = getattr(loss, 'use_sigmoid', False)
    return f'{"sigmoid" if sigmoid else "softmax"} of the scores, decode ' \
        'the boxes, NMS'


def numbered(**lists) -> dict:
    """feat=[a, b] to feat0=a, feat1=b."""
    return {
        f'{name}{i}': value
        for name, values in lists.items() for i, value in enumerate(values)
    }


def region_heads(model: nn.Module) -> dict[str, tuple[nn.Module, int, int]]:
    """Heads of a two-stage detector: name -> (head, channels, size).

    They read what an RoIAlign outside of the graph cuts from the maps,
    (regions, channels, size, size).
    """
    roi_head = getattr(model, 'roi_head', None)
    heads = {}
    for name in ('bbox', 'mask'):
        head = getattr(roi_head, f'{name}_head', None)
        extractor = getattr(roi_head, f'{name}_roi_extractor', None)
        if head is None:
            continue
        several = isinstance(head, nn.ModuleList)
        for i, each in enumerate(head if several else [head]):
            cut = extractor[i] if isinstance(
                extractor, nn.ModuleList) else extractor
            size = cut.roi_layers[0].output_size
            heads[f'{name}_head{i if several else ""}'] = (
                each, each.in_channels,
                size[0] if isinstance(size, tuple) else size)
    return heads


def region_outputs(head: nn.Module, features) -> dict:
    """Raw outputs of a head on regions: cls and bbox, or masks."""
    outputs = head(features)
    if isinstance(outputs, tuple):
        return dict(cls=outputs[0], bbox=outputs[1])
    return dict(masks=outputs)
