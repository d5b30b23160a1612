"""Runs the steps of an attempt: a sample that fails, or kills its process, costs only itself.

A step is a plain function from a batch of samples to as many samples; it knows of no failure. A
process that a sample kills cannot report it. So after a unit's first death its samples are worked
on one at a time, and which one is written down before: ``suspects/<unit>.<attempt>.json``. Only the
driver, which sees how the attempt ended, turns that note into evidence.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING

from pipeline.make.isolate import Failure, isolate
from pipeline.make.rows import failed_row
from schemas.run_layout import working_on_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pipeline.make.attempt import Attempt
    from pipeline.make.rows import Draft
    from schemas.unit import Unit
    from storage.files.stores import RunStore

    Step = Callable[[Sequence[Draft]], Sequence[Draft]]
    BeforeBatch = Callable[[int, int], None]


class Steps:
    """Runs the steps of one attempt at a unit.

    Args:
        attempt: The attempt; its history says which samples are left out, and how careful it is.
    """

    def __init__(self, store: RunStore, unit: Unit, attempt: Attempt) -> None:
        self._store = store
        self._note = working_on_path(unit.unit_id, attempt.name)
        self._is_careful = attempt.history.is_careful
        self._killers = attempt.history.killers

    def spare(self, drafts: Iterable[Draft]) -> list[Draft]:
        """Take samples out that have killed processes."""
        return [
            draft.out(failed_row(draft.row, self._killers[draft.row.key]))
            if draft.is_in and draft.row.key in self._killers
            else draft
            for draft in drafts
        ]

    def run(
        self,
        drafts: Sequence[Draft],
        step: Step,
        *,
        batch_size: int = 1,
        before_batch: BeforeBatch | None = None,
        together: str = "key",
    ) -> list[Draft]:
        """Run a step on all samples that are not out; see :meth:`batches`.

        Returns:
            As many drafts, in their order.
        """
        batches = self.batches(
            drafts, step, batch_size=batch_size, before_batch=before_batch, together=together
        )
        return with_these(drafts, (draft for batch in batches for draft in batch))

    def batches(
        self,
        drafts: Sequence[Draft],
        step: Step,
        *,
        batch_size: int,
        before_batch: BeforeBatch | None = None,
        together: str = "key",
    ) -> Iterator[list[Draft]]:
        """Run a step batch by batch: those before an error are not lost.

        Args:
            step: What to do with them. If it fails, its batch is halved until the bad ones are
                found, which fall out.
            batch_size: Most samples in a batch, unless they are worked on one at a time.
            before_batch: Called before each batch with the number of samples done and of all; what
                it raises ends the whole step.
            together: Column of the rows; samples of one value count as one where samples are
                worked on one at a time.

        Yields:
            The samples of a batch that were not out, after the step.

        Raises:
            OSError: If a note cannot be written down.
        """
        todo = [draft for draft in drafts if draft.is_in]
        done = 0
        for batch in self._split(todo, batch_size, together):
            if before_batch is not None:
                before_batch(done, len(todo))
            self._write_down(batch)
            yield [
                draft.out(failed_row(draft.row, made)) if isinstance(made, Failure) else made
                for draft, made in zip(batch, isolate(batch, step), strict=True)
            ]
            done += len(batch)
        self._write_down([])

    def _split(
        self, drafts: Sequence[Draft], batch_size: int, together: str
    ) -> Iterator[Sequence[Draft]]:
        if self._is_careful:
            for _, group in groupby(drafts, key=lambda draft: getattr(draft.row, together)):
                yield list(group)
        else:
            for start in range(0, len(drafts), batch_size):
                yield drafts[start : start + batch_size]

    def _write_down(self, batch: Sequence[Draft]) -> None:
        if self._is_careful:
            keys = [draft.row.key for draft in batch]
            self._store.write_bytes(self._note, json.dumps({"keys": keys}).encode())


def with_these(drafts: Iterable[Draft], made: Iterable[Draft]) -> list[Draft]:
    """Put samples in the places of those with their keys."""
    by_key = {draft.row.key: draft for draft in made}
    return [by_key.get(draft.row.key, draft) for draft in drafts]
