r"""Integer sums to spike counts: the neuron inside an integer kernel.

QLinearConv computes, with an integer bias B and a float factor S for each
channel,

.. math:: C = round(S (m n + B))

where n is the sum of codes times counts and m an integer by which the codes
were multiplied before. What it has to compute is the neuron behind the
layer, c(n) = round(clamp((scale n + bias) / theta, 0, D)), whose bias is no
integer. As n is one, all that matters is between which n the count rises: S,
B and m are chosen so that C rises between the same. Then C equals c for
every possible input.
"""

import numpy as np

from ...layers import IELIF

# The sums in the kernel, integers that are converted to float32.
LARGEST_SUM = 2**23
# Biases tried on either side of the nearest, in multiples of m.
REACH = 5


def count(sums: np.ndarray, scale: np.ndarray, bias: np.ndarray,
          neuron: IELIF) -> np.ndarray:
    """c(n), in float32 like the integer form: n before any rounding."""
    f = np.float32
    potential = sums.astype(f) * scale.astype(f) + bias.astype(f)
    u = np.clip(potential / f(neuron.threshold), f(0), f(neuron.levels))
    return np.floor(u + f(.5)) if neuron.rounding == 'half_up' \
        else np.rint(u)


def first_sums(scale: np.ndarray, bias: np.ndarray, low: np.ndarray,
               high: np.ndarray, neuron: IELIF) -> np.ndarray:
    """Return the smallest sum of each count, (D, channels).

    Args:
        scale, bias (np.ndarray): (channels, ), scale >= 0.
        low, high (np.ndarray): Smallest and largest sum there can be.
        neuron (IELIF): Behind the layer.

    Returns:
        np.ndarray: int64, low if the count is that high anyway, high + 1 if
            it never is.
    """
    counts = np.arange(1, neuron.levels + 1)[:, None]
    below = np.broadcast_to(low - 1, (neuron.levels, len(low))).copy()
    above = np.broadcast_to(high + 1, below.shape).copy()
    while (above - below > 1).any():  # bisection: c(n) never falls
        middle = (below + above) // 2
        reached = count(middle, scale, bias, neuron) >= counts
        open_ = above - below > 1
        above = np.where(open_ & reached, middle, above)
        below = np.where(open_ & ~reached, middle, below)
    return above


def solve(first: np.ndarray, low: int, high: int, offset: float,
          factor: int) -> tuple[int, float, float] | None:
    """Bias and factor of a channel for one m.

    Args:
        first (np.ndarray): (D, ), of :func:`first_sums`.
        low, high (int): Smallest and largest sum there can be.
        offset (float): bias / scale of the layer.
        factor (int): m.

    Returns:
        tuple: B, S and the margin of S, or None if there are none.
    """
    half = np.arange(len(first)) + .5  # where the count rises, in counts
    inside = (first > low) & (first <= high)
    least = np.where(first > low, factor * (first - 1), -np.inf)
    most = np.where(first <= high, factor * first, np.inf)
    if inside.sum() > 1:
        nearest = round(factor * offset)
        biases = nearest + np.arange(-REACH * factor, REACH * factor + 1)
    else:  # any line through the one gap will do that is flat enough
        width = 4 * factor * (high - low + 2)
        if inside.any():
            k = int(inside.argmax())
            gap = factor * int(first[k]) - factor // 2
            biases = np.array([round(width * half[k]) - gap])
        else:
            level = int((first <= low).sum())
            biases = np.array(
                [width * level - factor * (low + high) // 2])
    biases = biases[:, None].astype(np.float64)
    # most + B > half / S > least + B
    steps_low = ((least + biases) / half).max(1)
    steps_high = ((most + biases) / half).min(1)
    if inside.sum() <= 1:  # open ends
        steps_low = np.maximum(steps_low, width / 2)
        steps_high = np.minimum(steps_high, width * 2)
    steps_low = np.maximum(steps_low, 1e-3)
    margin = (steps_high - steps_low) / steps_low
    best = int(margin.argmax())
    if not margin[best] > 2e-6:
        return None
    bias = int(biases[best, 0])
    if max(abs(factor * low + bias), abs(factor * high + bias)) > LARGEST_SUM:
        return None
    step = (steps_low[best] * steps_high[best])**.5
    return bias, 1 / step, float(margin[best])


def requantize(codes: np.ndarray, scale: np.ndarray, bias: np.ndarray,
               levels: int, neuron: IELIF):
    """Codes, bias and factors with which a kernel emits a neuron's counts.

    Args:
        codes (np.ndarray): (channels, ...), integers.
        scale, bias (np.ndarray): (channels, ), scale >= 0.
        levels (int): D of the counts that are read.
        neuron (IELIF): Behind the layer.

    Returns:
        tuple: m * codes, int8; B, int32; S, float32. None if some channel
            has no such numbers.
    """
    flat = codes.reshape(len(codes), -1).astype(np.int64)
    low, high = sum_range(codes, levels)
    first = first_sums(scale, bias, low, high, neuron)
    largest = np.maximum(flat.max(1), 1), np.maximum(-flat.min(1), 1)
    factors = np.minimum(127 // largest[0], 128 // largest[1])
    biases = np.zeros(len(codes), np.int32)
    steps = np.zeros(len(codes), np.float32)
    for i, start in enumerate(factors):
        offset = bias[i] / scale[i] if scale[i] else 0.
        found = None
        best = None
        for factor in range(int(start), max(int(start) // 4, 0), -1):
            found = solve(first[:, i], int(low[i]), int(high[i]), offset,
                          factor)
            if found and (best is None or found[2] > best[0][2]):
                best = found, factor
            if best and best[0][2] > 1e-4:
                break
        if best is None:
            return None
        (biases[i], steps[i], _), factors[i] = best
    if not is_exact(first, low, high, factors, biases, steps):
        return None
    return (flat * factors[:, None]).astype(np.int8).reshape(
        codes.shape), biases, steps


def is_exact(first: np.ndarray, low: np.ndarray, high: np.ndarray,
             factors: np.ndarray, biases: np.ndarray,
             steps: np.ndarray) -> bool:
    """Whether the count rises where it should, computed in float32."""

    def emitted(sums: np.ndarray) -> np.ndarray:
        total = (sums * factors + biases).astype(np.float32)
        return np.clip(np.rint(total * steps), 0, len(first))

    counts = np.arange(1, len(first) + 1)[:, None]
    before, at = np.maximum(first - 1, low), np.minimum(first, high)
    return bool((((first <= low) | (emitted(before) < counts)) &
                 ((first > high) | (emitted(at) >= counts))).all())


def sum_range(codes: np.ndarray,
              levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest sum of codes times counts 0..levels, int64."""
    flat = codes.reshape(len(codes), -1).astype(np.int64)
    return (levels * np.minimum(flat, 0).sum(1),
            levels * np.maximum(flat, 0).sum(1))


def tie_free_step(threshold: float, levels: int, rounding: str) -> float:
    """Return the step for QuantizeLinear, which rounds half to even.

    For a neuron that rounds half up it is the largest float32 below the
    threshold with which every tie is lifted, whether a runtime divides by it
    or multiplies by its inverse: about 2e-7 less.
    """
    f = np.float32
    step = f(threshold)
    if rounding == 'half_even':
        return float(step)
    half = np.arange(levels, dtype=f) + f(.5)
    ties = half * f(threshold)
    while not ((ties / step > half) & (ties * (f(1) / step) > half)).all():
        step = np.nextafter(step, f(0))
    return float(step)
