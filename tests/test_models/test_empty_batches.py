"""No batch ends a training: none positive, no region, no box, one pixel."""

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from small_models import (
    NEURON,
    build,
    one_loss,
    predict,
    random_data,
    scope_of,
    spike,
)
from test_spike_det_heads import HEADS, run

from mmqsdt.deploy import FORMS, to_form

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

DETECTORS = ('mask_rcnn', 'cascade_rcnn', 'retinanet')
# No proposal of the region proposal network is that large.
NO_PROPOSALS = {'train_cfg.rpn_proposal.min_bbox_size': 10_000,
                'test_cfg.rpn.min_bbox_size': 10_000}
NORMS = dict(
    BN=dict(type='BN'),
    GN=dict(type='GN', num_groups=2),
    IN=dict(type='IN', affine=True, track_running_stats=True))


def without_boxes(data, images=(0, 1), crowd=False):
    for i in images:
        sample = data['data_samples'][i]
        if crowd:
            sample.ignored_instances = sample.gt_instances
        sample.gt_instances = sample.gt_instances[:0]


def one_image(data):
    for key in data:
        del data[key][1:]


def one_pixel(data):
    """Two images of one pixel; what is in them covers it."""
    data['inputs'] = [x[:, :1, :1] for x in data['inputs']]
    for sample in data['data_samples']:
        sample.set_metainfo(
            dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (1, 1)))
        if 'gt_sem_seg' in sample:
            sample.gt_sem_seg = sample.gt_sem_seg[:1, :1]
        if 'gt_instances' in sample:
            sample.gt_instances.bboxes[:] = torch.tensor([0., 0., 1., 1.])
            sample.gt_instances.masks = sample.gt_instances.masks.crop(
                np.array([0, 0, 1, 1]))


def nothing(data):
    pass


def nothing_labelled(data):
    for sample in data['data_samples']:
        sample.gt_sem_seg.data.fill_(255)


# case: (models, what is done to the data, changes of the model)
CASES = dict(
    no_box=(DETECTORS, without_boxes, {}),
    one_without_a_box=(DETECTORS, lambda x: without_boxes(x, [0]), {}),
    crowd=(DETECTORS, lambda x: without_boxes(x, crowd=True), {}),
    no_region=(DETECTORS[:2], without_boxes, NO_PROPOSALS),
    one_image=((*DETECTORS, 'semantic_fpn', 'classifier'), one_image, {}),
    one_pixel=(DETECTORS, one_pixel, {}),
    one_pixel_segmented=(('semantic_fpn', ), one_pixel,
                         {'data_preprocessor.size': (1, 1)}),
    nothing_labelled=(('semantic_fpn', ), nothing_labelled, {}),
    **{f'no_box_{norm}': (DETECTORS[:2], without_boxes,
                          {'roi_head.mask_head.norm_cfg': cfg})
       for norm, cfg in NORMS.items()})


# For predictions: scores above which nothing is.
CASES.update(
    nothing_found_1=((), nothing, {'test_cfg.score_thr': 2.}),
    nothing_found_2=((), nothing, {'test_cfg.rcnn.score_thr': 2.}))
# In these no region is positive, and no mask is learned.
NO_MASK = [case for case in CASES if case.startswith('no_')] + ['crowd']
PAIRS = [(case, name) for case, (names, *_) in CASES.items()
         for name in names]


def prepare(case, name, bits=4, neuron=NEURON):
    _, change, options = CASES[case]
    model = build(name, spike(neuron, bits), **options)
    data = random_data(name)
    change(data)
    return model, data


def assert_finite(model):
    for key, buffer in model.named_buffers():
        assert torch.isfinite(buffer).all(), key


@pytest.mark.parametrize('bits, neuron', [
    (None, NEURON), (4, dict(NEURON, threshold='learned'))],
    ids=['float', 'learned'])
@pytest.mark.parametrize('case, name', PAIRS)
def test_it_trains(case, name, bits, neuron):
    model, data = prepare(case, name, bits, neuron)
    with DefaultScope.overwrite_default_scope(scope_of(name)):
        total, log = model.parse_losses(one_loss(model, data))
    total.backward()
    assert all(torch.isfinite(torch.as_tensor(x)).all() for x in log.values())
    assert_finite(model)
    for key, p in model.named_parameters():
        # Several processes wait for each of them.
        assert p.grad is not None and torch.isfinite(p.grad).all(), key
        if 'mask_head' in key and case in NO_MASK:
            assert not p.grad.any(), key


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case, name', [
    *((case, name) for case, name in PAIRS
      if case in ('no_region', 'one_image') or 'pixel' in case),
    *((f'nothing_found_{k}', name) for k, name in ((1, 'retinanet'),
                                                   (2, 'mask_rcnn'),
                                                   (2, 'cascade_rcnn')))])
def test_it_predicts(case, name, form):
    model, data = prepare(case, name)
    with DefaultScope.overwrite_default_scope(scope_of(name)):
        results = predict(to_form(model.eval(), form), data)
    assert len(results) == len(data['inputs'])
    for result in results:
        found = result.get('pred_instances', ())
        if case.startswith('no'):
            assert len(found) == 0
        if len(found):
            assert torch.isfinite(found.bboxes).all()
            assert torch.isfinite(found.scores).all()


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name, kwargs', [
    *((name, {}) for name in HEADS),
    ('bbox_2fc', dict(predictor_neuron=True)),
    ('bbox_2fc', dict(with_avg_pool=True)),
    *(('bbox_4conv1fc', dict(norm_cfg=cfg)) for cfg in NORMS.values()),
    *(('mask', dict(norm_cfg=cfg)) for cfg in NORMS.values()),
    *(('mask', dict(upsample_cfg=dict(type=kind, scale_factor=3)))
      for kind in ('deconv', 'nearest', 'bilinear')),
    ('mask', dict(upsample_cfg=dict(type=None))),
])
def test_a_head_takes_nothing(name, kwargs, form):
    make, shape = HEADS[name]
    head = make(weight_bits=4, **kwargs).eval()
    sizes = [out.shape[1:] for out in run(head, torch.randn(shape))]
    head = to_form(head, form)
    if form == 'float':
        head.train()
    x = torch.randn(0, *shape[1:], requires_grad=True)
    outs = run(head, x)
    assert [out.shape for out in outs] == [(0, *size) for size in sizes]
    if form == 'float':
        sum(out.sum() for out in outs).backward()
        for key, p in [*head.named_parameters(), ('input', x)]:
            assert p.grad is not None and not p.grad.any(), key
        assert_finite(head)
