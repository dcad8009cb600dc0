"""The score of a model on the test data of its config."""

from contextlib import redirect_stdout
from io import StringIO

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

# What papers print, of the names that metrics give: a title, and a factor.
MAIN = {
    'accuracy/top1': ('top-1, %', 1.),
    'single-label/f1-score': ('F1, %', 1.),
    'coco/bbox_mAP': ('box AP, %', 100.),
    'coco/segm_mAP': ('mask AP, %', 100.),
    'pascal_voc/mAP': ('mAP, %', 100.),
    'mIoU': ('mIoU, %', 1.),
}


@torch.no_grad()
def measure_score(cfg: Config, model: nn.Module) -> dict[str, float]:
    """Test a model: without a runner, and so without its log files.

    Args:
        cfg (Config): Of any of the three frameworks.
        model (nn.Module): In any form.

    Returns:
        dict[str, float]: Title -> score, of :data:`MAIN`; where the metric
        has none of these, all that it has.

    Raises:
        ValueError: If the config has no test data or no test evaluator.
    """
    if not cfg.get('test_dataloader') or not cfg.get('test_evaluator'):
        raise ValueError('expected test_dataloader and test_evaluator in the '
                         'config, to score the model; --no-score leaves the '
                         'score out')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = Runner.build_dataloader(cfg.test_dataloader)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
    model = model.eval()
    with redirect_stdout(StringIO()):  # pycocotools prints a table
        for batch in loader:
            evaluator.process(model.test_step(batch), batch)
        found = evaluator.evaluate(len(loader.dataset))
    known = {title: factor * float(found[name])
             for name, (title, factor) in MAIN.items() if name in found}
    return known or {name: float(value) for name, value in found.items()
                     if isinstance(value, (int, float))}
