"""Pairs of documents that are read or made one at a time, as a sequence."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

from emo_viz.analysis.difference import Pair


class PairSequence(Sequence[Pair]):
    """What only has to say its length and `at` a place from 0."""

    @abstractmethod
    def at(self, place: int) -> Pair:
        """The pair at a place that there is."""

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> list[Pair]: ...
    def __getitem__(self, place: int | slice) -> Pair | list[Pair]:
        places = range(len(self))[place]
        return self.at(places) if isinstance(places, int) else [self.at(each) for each in places]
