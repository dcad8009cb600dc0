"""Scenes of scanned digits on photographs, both as scikit-learn has them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    from PIL import Image
    from sklearn.datasets import load_digits, load_sample_images
    from sklearn.model_selection import train_test_split
except ImportError as error:
    raise ImportError(
        f'the digits scenes need scikit-learn and pillow ({error}); install '
        'them: pip install "mmqsdt[demo]"') from error

DIGITS_CLASSES = tuple('0123456789')

# Splits, and what ADE20K calls them.
SPLITS = dict(train='training', val='validation')
# Columns of the photographs (640 pixels wide) that a split may show. The gap
# keeps an object on the border from being in both.
PHOTO_COLUMNS = dict(train=(0, 480), val=(500, 640))
CROP_SIDE = (70, 140)  # of a background, in pixels of the photograph
BRIGHTNESS = (0.3, 0.7)  # darkens a background, so that light ink stands out
INK_COLOR = (170, 255)
VAL_SHARE = 0.2  # of the scanned digits
DIGITS_PER_SCENE = (2, 5)
# Height of a digit as a share of the scene's: 24 to 64 of 160 pixels.
DIGIT_HEIGHT = (0.15, 0.4)
# Ink at the lower end is transparent, at the upper end opaque: the sharp edge
# of a pen. A higher range would break thin strokes.
INK_RANGE = (0.25, 0.65)
# Share of a digit's ink that digits painted later must leave visible.
MIN_VISIBLE = 0.85
# Least difference in luma (0..255) between the ink and four fifths of the
# pixels around it.
MIN_CONTRAST = 60
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# Attempts to place the digits of a scene before its background is redrawn.
MAX_TRIES = 100


@dataclass
class Source:
    """All that one split is made of; nothing of the other's."""

    split: str
    scans: np.ndarray  # (n, 8, 8) float32, ink from 0 to 1
    labels: np.ndarray  # (n,)
    samples: np.ndarray  # (n,) index into scikit-learn's load_digits()
    photos: dict[str, np.ndarray]  # by name, (H, W, 3) uint8


@dataclass
class Scene:
    """An image, its digits and where its background comes from."""

    image: np.ndarray  # (S, S, 3) uint8
    owner: np.ndarray  # (S, S) uint8: 0 background, k + 1 the k-th digit
    labels: list[int]
    samples: list[int]  # index into load_digits()
    ink_areas: list[int]  # pixels of a digit before others covered it
    photo: str
    crop: tuple[int, int, int]  # left, top and side in the whole photograph


def load_source(split: str, seed: int = 0) -> Source:
    """Load scikit-learn's digits and photographs, as far as a split's.

    One digit in five of each class is for validation, drawn by the seed; the
    photographs are cut, the left for training and the right for validation.

    Args:
        split (str): 'train' or 'val'.
        seed (int): Decides which digits are for validation. Default: 0.

    Returns:
        Source: Digits and photographs of the split.
    """
    digits, pictures = load_digits(), load_sample_images()
    train, val = train_test_split(
        np.arange(len(digits.target)),
        test_size=VAL_SHARE,
        stratify=digits.target,
        random_state=seed)
    samples = np.sort(train if split == 'train' else val)
    columns = slice(*PHOTO_COLUMNS[split])
    return Source(
        split, digits.images[samples].astype(np.float32) / 16,
        digits.target[samples], samples, {
            Path(path).name: pixels[:, columns]
            for path, pixels in zip(pictures.filenames, pictures.images)
        })


def render_digit(scan: np.ndarray, side: int) -> np.ndarray:
    """Enlarge a scan smoothly, with a margin of one scanned cell.

    Args:
        scan (ndarray): Ink from 0 to 1, shape (8, 8).
        side (int): Side of the result in pixels, margin included.

    Returns:
        ndarray: Ink from 0 to 1, shape (side, side).
    """
    padded = Image.fromarray(np.pad(scan, 1))
    large = padded.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(large).clip(0, 1)


def compose_scene(source: Source, image_size: int, seed: int,
                  index: int) -> Scene:
    """Paint two to five digits on a crop of a photograph.

    All that is random is drawn from (seed, split, index), so a scene does not
    depend on how many others there are. A digit is painted in one color with
    its ink as opacity. Its mask is where the opacity is at least 1/2, less
    what digits painted later cover. A place is not taken if no color would
    stand out there or too little of another digit would stay visible.

    Args:
        source (Source): Digits and photographs of the split.
        image_size (int): Side S of the scene in pixels.
        seed (int): Seed of the data set.
        index (int): Number of the scene in its split.

    Returns:
        Scene: Its image has shape (S, S, 3).
    """
    split_number = list(SPLITS).index(source.split)
    rng = np.random.default_rng([seed, split_number, index])
    wanted = rng.integers(*DIGITS_PER_SCENE, endpoint=True)
    while True:
        scene = _draw_background(source, image_size, rng)
        for _ in range(MAX_TRIES):
            _try_to_add_digit(scene, source, rng)
            if len(scene.labels) == wanted:
                return scene


def _draw_background(source: Source, image_size: int,
                     rng: np.random.Generator) -> Scene:
    name = list(source.photos)[rng.integers(len(source.photos))]
    pixels = source.photos[name]
    side = int(rng.integers(*CROP_SIDE, endpoint=True))
    top, left = (int(rng.integers(n - side + 1)) for n in pixels.shape[:2])
    crop = pixels[top:top + side, left:left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    image = Image.fromarray(crop).resize((image_size, image_size),
                                         Image.Resampling.BICUBIC)
    image = to_uint8(np.asarray(image) * rng.uniform(*BRIGHTNESS))
    left += PHOTO_COLUMNS[source.split][0]
    owner = np.zeros((image_size, image_size), np.uint8)
    return Scene(image, owner, [], [], [], name, (left, top, side))


def _try_to_add_digit(scene: Scene, source: Source,
                      rng: np.random.Generator) -> None:
    """Paint a random digit in a random place, unless it spoils the scene."""
    label = rng.integers(len(DIGITS_CLASSES))
    which = rng.choice(np.flatnonzero(source.labels == label))
    size = len(scene.image)
    smallest, largest = (round(share * size) for share in DIGIT_HEIGHT)
    height = rng.integers(smallest, largest, endpoint=True)
    side = round(height * 10 / 8)  # eight cells and the margin
    top, left = rng.integers(size - side + 1, size=2)
    tile = np.s_[top:top + side, left:left + side]
    low, high = INK_RANGE
    ink = render_digit(source.scans[which], side)
    opacity = ((ink - low) / (high - low)).clip(0, 1)
    mask = np.zeros((size, size), bool)
    mask[tile] = opacity >= 0.5

    for number, ink_area in enumerate(scene.ink_areas, start=1):
        visible = (scene.owner == number) & ~mask
        if visible.sum() < MIN_VISIBLE * ink_area:
            return
    color = _contrasting_color(scene.image[tile], rng)
    if color is None:
        return
    opacity = opacity[..., None]
    scene.image[tile] = to_uint8(
        opacity * color + (1 - opacity) * scene.image[tile])
    scene.labels.append(int(label))
    scene.samples.append(int(source.samples[which]))
    scene.ink_areas.append(int(mask.sum()))
    scene.owner[mask] = len(scene.labels)


def _contrasting_color(covered: np.ndarray,
                        rng: np.random.Generator) -> np.ndarray | None:
    """Draw a color that stands out from pixels (h, w, 3), if there is one."""
    colors = rng.uniform(*INK_COLOR, (16, 3))
    luma = (covered @ LUMA).reshape(-1, 1)
    contrast = np.abs(luma - colors @ LUMA)  # (h*w, 16)
    stands_out = (contrast >= MIN_CONTRAST).mean(0) >= 0.8
    return colors[stands_out.argmax()] if stands_out.any() else None


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round to whole gray levels, 0..255."""
    return np.rint(image).clip(0, 255).astype(np.uint8)
