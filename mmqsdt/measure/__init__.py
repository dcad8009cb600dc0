from .entropy import EntropyReport, TensorDistribution, spike_entropy

__all__ = ['EntropyReport', 'TensorDistribution', 'spike_entropy']
