"""As many regions for one detector as for another.

How many regions a two-stage detector proposes, and how many of them become
detections with a mask, depends on its weights: the better it is, the fewer
remain. Energies of two models then differ by what they found.
"""

from mmengine.config import Config

from ..utils.configs import parts

# Above any overlap there is, so that nothing is suppressed; not 1, which
# the overlap of two equal boxes can exceed by rounding.
KEEP_ALL = dict(type='nms', iou_threshold=2.)


def fix_regions(cfg: Config, number: int | None = None) -> tuple[int, int]:
    """Take the best k proposals and detections, whatever their overlap.

    Args:
        cfg (Config): Of a whole model; its ``test_cfg`` is changed in place.
            Models of one stage have no regions, and stay as they are.
        number (int, optional): Of proposals; None takes the
            ``max_per_img`` of the config.

    Returns:
        tuple[int, int]: Proposals and detections of an image; 0 of a model
        of one stage.

    Raises:
        ValueError: If the number is below 1.
    """
    if number is not None and number < 1:
        raise ValueError(f'expected at least 1 region, got {number}')
    found = (0, 0)
    for part in parts(cfg.model):
        test_cfg = part.get('test_cfg')
        if not isinstance(test_cfg, dict) or not (
                test_cfg.get('rpn') and test_cfg.get('rcnn')):
            continue  # of one stage
        rpn, rcnn = test_cfg['rpn'], test_cfg['rcnn']
        proposals = number or rpn['max_per_img']
        rpn.update(
            nms_pre=max(proposals, rpn.get('nms_pre', 0)), nms=dict(KEEP_ALL),
            max_per_img=proposals, min_bbox_size=-1)
        rcnn.update(score_thr=-1., nms=dict(KEEP_ALL))
        found = proposals, rcnn['max_per_img']
    return found

