"""What a visitor has done: the history they built, and which items of it were put there at random."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Entry:
    """An item of the history; `injected` where chance chose it."""

    item_id: str
    injected: bool = False


@dataclass(frozen=True)
class Visit:
    """A history, oldest item first. Every change makes a new visit.

    Args:
        history: entries, oldest first.
        injections: items injected so far, the seed of the next one: equal clicks give equal pages.
        examples: examples shown so far, the seed of the next one.
    """

    history: tuple[Entry, ...] = ()
    injections: int = 0
    examples: int = 0

    @property
    def item_ids(self) -> list[str]:
        return [entry.item_id for entry in self.history]

    def add(self, item_id: str) -> "Visit":
        """With an item more at the end; an item that is there already moves to the end."""
        kept = tuple(entry for entry in self.history if entry.item_id != item_id)
        return replace(self, history=(*kept, Entry(item_id)))

    def remove(self, item_id: str) -> "Visit":
        return replace(self, history=tuple(entry for entry in self.history if entry.item_id != item_id))

    def start(self, example: Sequence[str]) -> "Visit":
        """With an example instead of the history."""
        return replace(self, history=tuple(map(Entry, example)), examples=self.examples + 1)

    def inject(self, item_ids: Sequence[str]) -> "Visit":
        """With one item of the catalogue that is not in the history, all equally likely, anywhere before the last
        item, whose attention is shown.

        Args:
            item_ids: the catalogue.

        Raises:
            ValueError: for an empty history, and where the history holds the whole catalogue.
        """
        if not self.history:
            raise ValueError("Add an item first: a random one is injected before the last item of a history.")
        if len(self.history) >= len(item_ids):
            raise ValueError("Every item of the catalogue is in the history already: remove one first.")
        rng, item_id = random.Random(self.injections), self.history[-1].item_id
        while item_id in self.item_ids:
            item_id = item_ids[rng.randrange(len(item_ids))]
        place = rng.randrange(len(self.history))
        history = (*self.history[:place], Entry(item_id, injected=True), *self.history[place:])
        return replace(self, history=history, injections=self.injections + 1)
