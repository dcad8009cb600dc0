"""How long a case may go on injecting."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')


class Budget:
    """The time of a case, and what it measured.

    Args:
        seconds (float): Defaults to no end.

    Attributes:
        done (int): Faults that were given out and dealt with.
        cut (bool): Whether the time was up before all were.
        figures (list[str]): What was measured beside, for the table.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self.end = time.monotonic() + seconds
        self.done, self.cut, self.figures = 0, False, []

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def each(self, faults: Iterable[T]) -> Iterator[T]:
        """Yield one after another while time is left; always the first."""
        for number, fault in enumerate(faults):
            if number and self.over:
                self.cut = True
                return
            yield fault
            self.done += 1
