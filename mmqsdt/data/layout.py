"""Where the parts of a data set are: four usual layouts, found by looking.

    folder  train/<class>/*.jpg, val/<class>/*.jpg
    coco    annotations/*train*.json, *val*.json; images in train*/, val*/,
            images/ or beside them
    pairs   images/{train,val}/*.jpg, annotations/{train,val}/*.png; labels/
            or masks/ will do
    voc     JPEGImages/*.jpg, Annotations/*.xml, ImageSets/Main/{train,val}.txt
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..utils.text import read_json, read_lines
from .files import IMAGE_SUFFIXES, files_in

KINDS = ('folder', 'coco', 'pairs', 'voc')
# Names of the parts in the wild, the most usual first.
PARTS = dict(
    train=('train', 'training', 'trainval'),
    val=('val', 'validation', 'valid', 'test', 'testing'))
LABEL_FOLDERS = ('annotations', 'labels', 'masks')
CLASSES_FILE = 'classes.txt'


@dataclass
class Part:
    """One part of a data set; paths only, nothing of it has been read.

    Attributes:
        kind (str): 'folder', 'coco', 'pairs' or 'voc'.
        name (str): 'train' or 'val', or what a config calls it.
        images (Path): Folder of images, or of a folder for each class.
        annotations (Path, optional): A COCO json; the folder of the label
            maps or of the xml files.
        names (Path, optional): A text file with a name in each line, of the
            images that belong to this part; None takes all.
        classes (tuple[str], optional): None takes those that are found.
        image_suffix (str): Of pairs. Default: '.jpg'.
        ignore_zero (bool): Pairs: label 0 is no class and is ignored, the
            first class is 1. Default: False.
    """
    kind: str
    name: str
    images: Path
    annotations: Path | None = None
    names: Path | None = None
    classes: tuple[str, ...] | None = None
    image_suffix: str = '.jpg'
    ignore_zero: bool = False


def find_parts(kind: str, root: str | Path,
               classes: tuple[str, ...] | None = None,
               ignore_zero: bool = False) -> list[Part]:
    """Find the training and the validation part of a data set.

    Args:
        kind (str): Of ``KINDS``.
        root (str | Path): Its folder.
        classes (tuple[str], optional): Names in the order of their labels.
            Default: those of ``classes.txt`` in the folder; without it those
            that the data name (folders, categories, objects).
        ignore_zero (bool): Pairs: label 0 is no class. Default: False.

    Raises:
        FileNotFoundError: If a part is not there; shows the layout.
        ValueError: If an annotation file cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'no folder {root}')
    find = dict(folder=_folder, coco=_coco, pairs=_pairs, voc=_voc)[kind]
    listed = root / CLASSES_FILE
    if classes is None and listed.is_file():
        classes = tuple(read_lines(listed))
    parts = []
    for name in PARTS:
        part = find(root, name)
        part.classes = classes
        part.ignore_zero = ignore_zero
        parts.append(part)
    return parts


def _missing(kind: str, root: Path, what: str) -> FileNotFoundError:
    layout = __doc__.split('\n\n')[1]
    return FileNotFoundError(f'{root} has no {what} for {kind!r}. The '
                             f'layouts:\n{layout}')


def _sub_folder(folder: Path, part: str) -> Path | None:
    """Find the folder of a part, whatever it is called."""
    for name in PARTS[part]:
        if (folder / name).is_dir():
            return folder / name
    return None


def _folder(root: Path, name: str) -> Part:
    images = _sub_folder(root, name)
    if images is None:
        raise _missing('folder', root, f'folder {name}/')
    return Part('folder', name, images)


def _coco(root: Path, name: str) -> Part:
    jsons = sorted([*root.glob('annotations/*.json'), *root.glob('*.json'),
                    *root.glob('*/*.json')])
    for word in PARTS[name]:
        found = [path for path in jsons if word in path.stem.lower() or (
            path.parent.name == word)]
        # 'instances_train.json' before 'captions_train.json'.
        found.sort(key=lambda p: ('instances' not in p.stem, len(p.stem)))
        if found:
            images = _images_of(found[0], root, name)
            return Part('coco', name, images, found[0])
    raise _missing('coco', root, f'json of part {name}')


def _images_of(annotations: Path, root: Path, name: str) -> Path:
    """Find the folder with the files that a json names, else guess."""
    try:
        images = read_json(annotations)['images'][:50]
        names = [str(image['file_name']) for image in images
                 if image.get('file_name')]
    except ValueError as error:
        why = str(error).removeprefix(f'{annotations} ')
        raise ValueError(f'{annotations} is no COCO json: {why}') from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{annotations} is no COCO json: it has no list of '
                         f'images with file names ({error})') from None
    folders = [root, root / 'images', annotations.parent]
    for word in PARTS[name]:
        folders += sorted(root.glob(f'{word}*/')) + \
            sorted(root.glob(f'images/{word}*/'))
    hits = {folder: sum((folder / n).is_file() for n in names)
            for folder in folders}
    # Of the first that hold as many as any; where nothing is, the last.
    return max(reversed(folders), key=hits.get) if any(hits.values()) else \
        folders[-1]


def _pairs(root: Path, name: str) -> Part:
    images = _sub_folder(root / 'images', name)
    if images is None:
        raise _missing('pairs', root, f'folder images/{name}/')
    for folder in LABEL_FOLDERS:
        labels = _sub_folder(root / folder, name)
        if labels is not None:
            return Part('pairs', name, images, labels,
                        image_suffix=most_frequent_suffix(images))
    raise _missing('pairs', root, f'folder annotations/{name}/')


def most_frequent_suffix(folder: Path) -> str:
    """Suffix of most images in a folder, as it is written."""
    counts = Counter(path.suffix for path in files_in(folder)
                     if path.suffix.lower() in IMAGE_SUFFIXES)
    return counts.most_common(1)[0][0] if counts else '.jpg'


def _voc(root: Path, name: str) -> Part:
    for word in PARTS[name]:
        names = root / 'ImageSets/Main' / f'{word}.txt'
        if names.is_file():
            return Part('voc', name, root / 'JPEGImages',
                        root / 'Annotations', names)
    raise _missing('voc', root, f'ImageSets/Main/{name}.txt')
