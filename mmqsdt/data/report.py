"""What can be wrong with a data set, and the report that says what is.

The faults, what follows from each and which of them stop or spoil a training
are in ``FAULTS``; docs/own_data.md shows the same table.
"""

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ERROR, WARNING = 'error', 'warning'

_SKIPPED = 'training leaves the image out and counts it; evaluation refuses ' \
    'to start'
# fault -> (level, what follows from it)
FAULTS = {
    'missing image': (ERROR, _SKIPPED),
    'empty file': (ERROR, _SKIPPED),
    'truncated image': (ERROR, _SKIPPED),
    'broken image': (ERROR, 'training leaves the image out and counts it; '
                     'evaluation stops at it and names it'),
    'wrong size': (ERROR, 'annotation and image do not fit: label maps are '
                   'stretched, boxes and masks are in the wrong place, and '
                   'nothing says so'),
    'odd mode': (WARNING, 'read as three channels of 8 bits'),
    'tiny image': (WARNING, 'shows next to nothing; left out of training if '
                   'its boxes lose their area or a crop fails'),
    'long image': (WARNING, 'shrinks to a few pixels on its short side, or '
                   'to none: then left out of training'),
    'unreadable annotation': (ERROR, 'training does not start'),
    'bad box': (ERROR, 'training or evaluation does not start, or the '
                'annotation is left out'),
    'box without area': (WARNING, 'COCO: left out of training. VOC: its '
                         'image is left out of training'),
    'box outside': (WARNING, 'COCO: left out if wholly outside, else cut to '
                    'the image by Resize. VOC: its image is left out if '
                    'nothing of the box is inside'),
    'box without mask': (WARNING, 'a model with a mask head learns nothing '
                         'from it: it is ignored, or its image is left out'),
    'broken mask': (ERROR, _SKIPPED.replace(
        'refuses to start', 'stops at it')),
    'duplicate id': (ERROR, 'training does not start, or annotations go to '
                     'the wrong image'),
    'unknown image': (ERROR, 'the annotation is left out'),
    'unknown class': (ERROR, 'the annotation is left out'),
    'unused class': (WARNING, 'its annotations are left out, as the list of '
                     'classes does not name it'),
    'missing class': (WARNING, 'the json has no such category'),
    'class without samples': (WARNING, 'nothing to learn; its score is not '
                              'a number or is left out of the mean'),
    'image without annotation': (WARNING, 'left out of detection training '
                                 'where filter_empty_gt is set, else a '
                                 'negative; all ignored in segmentation'),
    'image without label map': (ERROR, _SKIPPED),
    'label map without image': (WARNING, 'not used'),
    'label map of colors': (ERROR, 'a pixel must be one number, its class; '
                             + _SKIPPED),
    'wrong label': (ERROR, 'outside the classes; ' + _SKIPPED),
    'file of another kind': (WARNING, 'not used'),
    'filtered image': (WARNING, 'left out of training by filter_cfg'),
    'failing pipeline': (ERROR, _SKIPPED.replace(
        'refuses to start', 'stops at it')),
    'no samples': (ERROR, 'there is nothing to learn, or to score'),
    'wrong evaluation file': (ERROR, 'the evaluation fails, after the '
                              'training'),
    'class list': (ERROR, 'labels of one part mean other classes than those '
                   'of the other, or of the model'),
    'class names': (ERROR, 'labels mean other classes than was meant'),
    'same data': (WARNING, 'the score is that of images that were learned'),
    'mask head': (ERROR, 'training or evaluation stops at its first masks'),
    'channels': (ERROR, 'training does not start'),
    'score': (ERROR, 'the evaluation fails, after the training'),
    'ignored label': (WARNING, 'what training ignores is scored, or the '
                      'other way round'),
    'checkpoint': (ERROR, 'its weights mean something else in this model'),
    'other names': (WARNING, 'results are named as the config says'),
    'other setting': (WARNING, 'the model computes other values than the '
                      'one that was saved'),
}
# Without these a part can be predicted on, where no score is wanted.
TRUTH = ('image without annotation', 'image without label map',
         'class without samples', 'no samples', 'box without mask',
         'broken mask')
# A training cannot start, or learns something else. All other faults of its
# data it leaves out, counts and names.
STOPPING = ('unreadable annotation', 'duplicate id', 'no samples',
            'class list', 'class names', 'wrong evaluation file')
EXAMPLES = 3  # findings of a kind that the table names


@dataclass
class Report:
    """What was found in one part of a data set.

    Attributes:
        name (str): Which part, for people.
        images (int): Images that it lists, present or not.
        annotations (int): Boxes, or label maps, or labels.
        classes (dict[str, int]): How often each class occurs: boxes; images
            with at least one pixel of it; or images.
        findings (dict[str, list[str]]): Of ``FAULTS``: where and what.
        stops (list[str]): Of these, what the data set itself refuses.
    """
    name: str
    images: int = 0
    annotations: int = 0
    classes: Counter = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)

    def add(self, fault: str, where: object, detail: object = '') -> None:
        """Note a fault; ``where`` is a path as a rule."""
        if fault not in FAULTS:
            raise KeyError(f'no fault {fault!r}')
        text = f'{where}: {detail}' if detail != '' else str(where)
        self.findings.setdefault(fault, []).append(text)

    def add_counts(self, hint: str = '', whole: bool = True) -> None:
        """Note classes that never occur, and a part with nothing in it.

        Args:
            hint (str): Why they may not. Default: none.
            whole (bool): All samples were counted. Default: True.
        """
        for name, count in self.classes.items():
            if count == 0:
                self.add('class without samples', f'{name}{hint}')
        if self.images == 0 or (whole and self.classes and not sum(
                self.classes.values())):
            self.add('no samples', self.name)

    @property
    def errors(self) -> int:
        """How many findings stop or spoil a training."""
        return sum(len(found) for fault, found in self.findings.items()
                   if FAULTS[fault][0] == ERROR)

    def to_json(self) -> dict:
        """All of it, every path included."""
        return dict(
            name=self.name,
            images=self.images,
            annotations=self.annotations,
            classes=dict(self.classes),
            errors=self.errors,
            findings=[
                dict(fault=fault, level=FAULTS[fault][0],
                     consequence=FAULTS[fault][1], number=len(found),
                     where=found) for fault, found in self.findings.items()
            ])


def print_report(report: Report, console: Console) -> None:
    """One part as a table: what, how often, where, what follows."""
    console.print(f'[bold]{escape(report.name)}[/bold]: {report.images} '
                  f'images, {report.annotations} annotations, '
                  f'{len(report.classes)} classes')
    if report.classes:
        console.print('  ' + escape(describe_counts(report.classes)))
    if not report.findings:
        console.print('  [green]nothing wrong was found[/green]\n')
        return
    table = Table(box=None, pad_edge=True, header_style='bold')
    for column in ('found', 'number', 'where', 'what follows'):
        table.add_column(column, overflow='fold',
                         justify='right' if column == 'number' else 'left')
    # Errors first, else in the order in which they were found.
    for fault, found in sorted(report.findings.items(),
                               key=lambda item: FAULTS[item[0]][0] != ERROR):
        level, consequence = FAULTS[fault]
        style = 'red' if level == ERROR else 'yellow'
        where = '\n'.join(found[:EXAMPLES])
        if len(found) > EXAMPLES:
            where += f'\nand {len(found) - EXAMPLES} more'
        table.add_row(f'[{style}]{fault}[/{style}]', str(len(found)),
                      escape(where), consequence)
    console.print(table)
    console.print()


def describe_counts(classes: Counter, most: int = 12) -> str:
    """Class counts in a line; of many classes the most and least frequent."""
    ordered = Counter(classes).most_common()
    shown = [f'{name} {count}' for name, count in ordered]
    if len(shown) > most:
        half = most // 2
        shown = [*shown[:half], '...', *shown[-half:]]
    return ', '.join(shown)
