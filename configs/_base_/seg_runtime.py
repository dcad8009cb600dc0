_base_ = './default_runtime.py'
default_scope = 'mmseg'
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=2500),
    visualization=dict(type='SegVisualizationHook'))
visualizer = dict(
    type='SegLocalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
    name='visualizer')
log_processor = dict(by_epoch=False)
