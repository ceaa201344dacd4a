"""Noise that is correlated over the rounds of a run, made of independent draws: see `fedtrain.privacy.correlation`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedtrain.errors import RunError
from fedtrain.privacy.correlation import inverse_column
from fedtrain.privacy.noise import RandomSource, WordStream


class CorrelatedNoise:
    """The noise of each round of a run: C^-1 Z, a row for each round (`fedtrain.privacy.correlation`).

    What is kept are the draws of as many rounds as there are bands less one, in float64 as they were drawn, and in this
    object alone. Of a seeded source those that are not here are drawn again, so that a run that goes on makes the very
    same noise. Of a secure one they are gone with the process that drew them.
    """

    def __init__(self, bands: int, draws: Callable[[int], RandomSource]) -> None:
        """Make noise of independent draws.

        Args:
            bands: draws that the noise of one round is made of, at most.
            draws: returns the source of a round's draws, by its number from 1.
        """
        self._inverse = inverse_column(bands).tolist()
        self._draws = draws
        self._kept: dict[int, _Draws] = {}

    def __call__(self, number: int) -> RandomSource:
        """Return the source of the noise of a round.

        What it returns for a shape is correlated with what it returned at the same place of the rounds before: every
        round asks for the same shapes and deviations, in the same order.

        Raises:
            RunError: the round needs draws of an earlier round that are not repeatable, and are not here; or it has its
                noise already, which is not repeatable.
        """
        rounds = range(number, max(number - len(self._inverse), 0), -1)
        known = {each: self._kept[each] for each in rounds[1:] if each in self._kept}
        for each in rounds:
            if each not in known:
                known[each] = _Draws(self._draws(each))
                if each != number and known[each].source.name != "seeded":
                    raise RunError(
                        f"the noise of round {number} takes a part of that of round {each} back, which was in the "
                        "memory of the process that drew it, and nowhere else; begin another run"
                    )
        if number in self._kept and known[number].source.name != "seeded":
            raise RunError(
                f"round {number} has its noise already: with other draws it would be another release, which the noise "
                "of the run is not calibrated for; begin another run"
            )
        self._kept = known
        return _RowSource([(part, known[each]) for part, each in zip(self._inverse, rounds, strict=False)])


class _Draws:
    """The draws of one round, in the order in which they are asked for."""

    def __init__(self, source: RandomSource) -> None:
        self.source = source
        self._made: list[tuple[float, Tensor]] = []

    def at(self, place: int, shape: tuple[int, ...], std: float) -> Tensor:
        """Return the draw at a place, made when it is first asked for.

        Raises:
            ValueError: it was made with another shape or deviation.
        """
        if place == len(self._made):
            drawn = self.source.gaussian(shape, std=std, device=torch.device("cpu"), dtype=torch.float64)
            self._made.append((std, drawn))
        made, drawn = self._made[place]
        if (made, tuple(drawn.shape)) != (std, shape):
            raise ValueError(
                f"noise of deviation {std:g} and shape {shape} was asked for, and in an earlier round of deviation "
                f"{made:g} and shape {tuple(drawn.shape)}: correlated noise is the same in all rounds"
            )
        return drawn


class _RowSource:
    """The noise of one round: a sum of parts of its own draws, and of those of the rounds before."""

    def __init__(self, rows: Sequence[tuple[float, _Draws]]) -> None:
        self._rows = rows
        self._place = 0
        self.name = rows[0][1].source.name

    def gaussian(
        self, shape: Sequence[int], *, std: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return the noise at the next place, for draws of the deviation ``std``, summed in float64 on the CPU.

        Raises:
            ValueError: an earlier round asked for another shape or deviation at this place.
        """
        total = torch.zeros(tuple(shape), dtype=torch.float64)
        for part, draws in self._rows:
            total.add_(draws.at(self._place, tuple(shape), std), alpha=part)
        self._place += 1
        return total.to(device=device, dtype=dtype)

    def bernoulli(self, count: int, probability: float) -> Tensor:
        """Return a mask of the round's own source."""
        return self._rows[0][1].source.bernoulli(count, probability)

    def streams(self, count: int) -> Sequence[WordStream]:
        """Return streams of words of the round's own source."""
        return self._rows[0][1].source.streams(count)
