"""From the classes of all of ADE20K to the 150 of the scene parsing benchmark.

A pixel of an annotation of the whole data set has its class, of more than
3000, in two channels: ``R // 10 * 256 + G``. The benchmark merges a few and
leaves most out.
"""

import numpy as np

# Of class 1, 2, ... 150, wall to flag: what it is made of.
SOURCES = (
    (2978, ), (312, ), (2420, ), (976, ), (2855, ), (447, ), (2131, ),
    (165, ), (3055, ), (1125, ), (350, ), (2377, ), (1831, ), (838, ),
    (774, 783), (2684, ), (1610, ), (1910, ), (687, ), (471, ), (401, ),
    (2994, ), (1735, ), (2473, ), (2329, ), (1276, ), (2264, ), (1564, ),
    (2178, ), (913, ), (57, ), (2272, ), (907, ), (724, ), (2138, ),
    (2985, 533), (1395, ), (155, ), (2053, ), (689, ), (137, ), (266, ),
    (581, ), (2380, ), (491, ), (627, ), (2212, ), (2388, ), (2423, ),
    (943, ), (2096, ), (1121, ), (1788, ), (2530, ), (2185, ), (420, ),
    (1948, ), (1869, ), (2251, ), (2531, ), (2128, ), (294, ), (239, ),
    (212, ), (571, ), (2793, ), (978, ), (236, ), (1240, ), (181, ), (629, ),
    (2598, ), (1744, ), (1374, ), (591, ), (2679, ), (223, ), (123, ), (47, ),
    (1282, ), (327, ), (2821, ), (1451, ), (2880, ), (2828, ), (480, ),
    (77, ), (2616, ), (246, 247), (2733, ), (14, ), (738, ), (38, ), (1936, ),
    (1401, ), (120, ), (868, ), (1702, ), (249, ), (308, ), (1969, ),
    (2526, ), (2928, ), (2337, ), (1023, ), (609, ), (389, ), (2989, ),
    (1930, ), (2668, ), (2586, ), (131, ), (146, ), (3016, ), (2739, ),
    (95, ), (1563, ), (642, ), (1708, ), (103, ), (1002, ), (2569, ),
    (2704, ), (2833, ), (1551, ), (1981, ), (29, ), (187, ), (1393, ),
    (747, ), (2254, ), (206, ), (2262, ), (1260, ), (2243, ), (2932, ),
    (2836, ), (2850, ), (64, ), (894, ), (1858, ), (3109, ), (1919, ),
    (1583, ), (318, ), (2356, ), (2046, ), (1098, ), (530, ), (954, ))
IMAGES = dict(train=20210, val=2000)  # of the benchmark, counted from 1
SIDE = 512  # pixels: longer short sides are shrunk to it

_TABLE = np.zeros(26 * 256, np.uint8)
for _label, _codes in enumerate(SOURCES, start=1):
    _TABLE[list(_codes)] = _label


def to_150(pixels: np.ndarray) -> np.ndarray:
    """Turn a full-ADE20K annotation into the benchmark's label map.

    Args:
        pixels (ndarray): The file ``*_seg.png``, (H, W, 3) uint8, RGB.

    Returns:
        ndarray: (H, W) uint8; 1 to 150, and 0 for all other classes.

    Source: mapFromADE.txt of the MIT Scene Parsing Benchmark, which is for
    the release of 2016; that of 2021 numbers these classes alike.
    """
    codes = pixels[..., 0].astype(np.uint16) // 10 * 256 + pixels[..., 1]
    return _TABLE[codes]


def benchmark_size(width: int, height: int) -> tuple[int, int]:
    """Return the benchmark's size of an image, as its script computes it.

    Args:
        width (int): In pixels.
        height (int): In pixels.
    """
    if SIDE < height < width:
        return round(width / height * SIDE), SIDE
    if SIDE < width < height:
        return SIDE, round(height / width * SIDE)
    return width, height
