"""Spiking box heads, for MMDetection."""

from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...registry import MODELS
from ..spike_units import HEAD_NEURON, SpikeLinear, to_spike_conv


@MODELS.register_module()
class SpikeConvFCBBoxHead(ConvFCBBoxHead):
    r"""mmdet's ConvFCBBoxHead whose convs and linear layers read spikes.

    .. code-block:: none

                                    /-> cls convs -> cls fcs -> fc_cls
        shared convs -> shared fcs
                                    \-> reg convs -> reg fcs -> fc_reg

    Each conv is neuron -> 3x3 conv -> norm, each fc is neuron -> linear.
    Targets, losses and post-processing are mmdet's. The neurons work at
    T = 1; the same function in training and in evaluation.

    The published fc_cls and fc_reg read the real-valued output of the last
    fc. ``predictor_neuron=True`` puts a neuron before each, so that the whole
    head is spike-driven; with ``neuron=dict(type='ReLU')`` it is then mmdet's
    own head behind a ReLU.

    Args:
        neuron (dict): Config of the neurons. Defaults to IE-LIF with
            threshold and amplitude 1, rounding half to even, as published.
        weight_bits (int, optional): Bits of the weights; None for float, as
            published. Defaults to None.
        predictor_neuron (bool): Whether fc_cls and fc_reg read spikes.
            Defaults to False, as published.
        **kwargs: num_shared_convs, num_shared_fcs, num_classes, losses, ...
            of mmdet's ConvFCBBoxHead. cls_predictor_cfg and
            reg_predictor_cfg, if given, are taken as they are.

    Shape: (R, C, h, w) in, (R, classes + 1) and (R, 4 * classes) out, for R
    regions.

    Raises:
        ValueError: If conv_cfg asks for anything but plain convs.

    Source: QSD-Transformer (arXiv 2501.13492), its detectors.
    """

    def __init__(self,
                 neuron: dict = HEAD_NEURON,
                 weight_bits: int | None = None,
                 predictor_neuron: bool = False,
                 **kwargs) -> None:
        # Read by _add_conv_fc_branch, which the base class calls.
        self.unit = dict(neuron=neuron, weight_bits=weight_bits)
        if predictor_neuron:
            predictor = dict(type='mmqsdt.SpikeLinear', **self.unit)
        else:
            predictor = dict(type='mmqsdt.LSQLinear', bits=weight_bits)
        kwargs.setdefault('cls_predictor_cfg', predictor)
        kwargs.setdefault('reg_predictor_cfg', predictor)
        super().__init__(**kwargs)
        # The base class applies it behind each fc; neurons take its place.
        self.relu = nn.Identity()

    def _add_conv_fc_branch(self, *args, **kwargs) -> tuple:
        convs, fcs, channels = super()._add_conv_fc_branch(*args, **kwargs)
        for i, conv in enumerate(convs):
            convs[i] = to_spike_conv(conv, **self.unit)
        for i, fc in enumerate(fcs):
            fcs[i] = SpikeLinear(fc.in_features, fc.out_features, **self.unit)
        return convs, fcs, channels

    def loss(self, cls_score: Tensor, bbox_pred: Tensor, *args,
             **kwargs) -> dict:
        """Compute mmdet's losses; without any region, add a loss of zero.

        mmdet leaves that loss out. Then fc_cls has no gradient, for which
        the other processes wait.
        """
        losses = super().loss(cls_score, bbox_pred, *args, **kwargs)
        if cls_score is not None and not len(cls_score):
            losses['loss_cls'] = cls_score.sum()
        return losses

    def refine_bboxes(self, sampling_results: list, bbox_results: dict,
                      batch_img_metas: list[dict]) -> list[InstanceData]:
        """Refine boxes as mmdet does; without any region, go on with none.

        mmdet ends the cascade there, and its later stages have no gradient.
        """
        if not len(bbox_results['cls_score']):
            return [InstanceData(bboxes=r.priors) for r in sampling_results]
        return super().refine_bboxes(sampling_results, bbox_results,
                                     batch_img_metas)


@MODELS.register_module()
class SpikeShared2FCBBoxHead(SpikeConvFCBBoxHead):
    """Two shared fcs, then fc_cls and fc_reg.

    Args:
        fc_out_channels (int): Width of the fcs. Defaults to 1024.
        **kwargs: Those of :class:`SpikeConvFCBBoxHead`.
    """

    def __init__(self, fc_out_channels: int = 1024, **kwargs) -> None:
        super().__init__(
            num_shared_fcs=2, fc_out_channels=fc_out_channels, **kwargs)
