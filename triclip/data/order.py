"""The sample at each place of a run: a function of the seed and the place only, in every process and worker."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clip_core.errors import ConfigError

# Uses of random numbers. Each has its own stream, so that a further draw in one does not change another.
CHOICE, AUGMENT, PATCHES = range(3)


class Order:
    """Samples by step and row of the global batch.

    Shuffled: every epoch is a new permutation (grain's index shuffle, which needs no memory), cut into whole batches;
    the remainder of fewer than `batch_size` samples, different in each epoch, is not seen. Not shuffled: the samples
    cyclically, without a remainder. In both cases no sample occurs twice in a batch, whichever samples are broken.

    Args:
        samples: their number, at least `batch_size` (ConfigError), because two copies of a sample in one batch would be
            false negatives of each other.
        seed: any integer.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, shuffle: bool) -> None:
        if samples < batch_size:
            raise ConfigError(
                f"data.batch_size: wanted at most the number of samples ({samples}), found {batch_size}: a sample "
                f"twice in a batch would count as its own negative"
            )
        self.samples, self.batch_size, self.seed, self.shuffle = samples, batch_size, seed, shuffle
        self._shuffled = None
        if shuffle:
            from grain import MapDataset

            self._shuffled = MapDataset.range(samples).seed(seed % 2**32).shuffle()

    def candidates(self, step: int, row: int) -> Iterator[int]:
        """The sample at a row of a step, followed by its replacements, in order, for the case that it is broken.

        Replacements come from the same row of the epoch's other batches, so that no two rows of a batch share one.
        """
        return self._places(step, range(row, self.samples, self.batch_size))

    def all(self, step: int) -> Iterator[int]:
        """Every sample once, beginning with those of a step's batch."""
        return self._places(step, range(self.samples))

    def _places(self, step: int, places: range) -> Iterator[int]:
        epoch, start = 0, step * self.batch_size % self.samples
        if self.shuffle:
            epoch, batch = divmod(step, self.samples // self.batch_size)
            start = batch * self.batch_size
        return (self._at(epoch, start + place) for place in places)

    def _at(self, epoch: int, place: int) -> int:
        place %= self.samples
        return place if self._shuffled is None else int(self._shuffled[epoch * self.samples + place])

    def random(self, step: int, row: int, use: int) -> np.random.Generator:
        """The random generator of a place, for one use."""
        position = step * self.batch_size + row
        key = np.array([self.seed % 2**64, position], np.uint64)  # a mixed list would be converted to floats
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, use]))
