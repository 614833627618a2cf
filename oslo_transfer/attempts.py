# SPDX-License-Identifier: Apache-2.0
"""What was tried and given up, and the one error that it comes to."""

from __future__ import annotations

from collections.abc import Iterable

from oslo_transfer import exceptions
from oslo_transfer import result as _result


def attempt(
    strategy: str, location: str, error: exceptions.TransferError
) -> _result.Attempt:
    """Describe something given up."""
    return _result.Attempt(
        strategy=strategy,
        location=location,
        reason=str(error).removeprefix(f'{location}: '),
        error=type(error).__name__,
        retryable=error.retryable,
    )


class Attempts:
    """Collects what failed in one call.

    :param strategy: the strategy's name
    :param before: what was passed over already
    :ivar wasted: bytes that were fetched for nothing
    """

    def __init__(
        self, strategy: str, before: Iterable[_result.Attempt] = ()
    ) -> None:
        self._strategy = strategy
        self._all = list(before)
        self._errors: list[exceptions.TransferError] = []
        self.wasted = 0

    @property
    def all(self) -> tuple[_result.Attempt, ...]:
        """All of them, in order."""
        return tuple(self._all)

    def add(self, location: str, error: exceptions.TransferError) -> None:
        """Something more failed."""
        self._all.append(attempt(self._strategy, location, error))
        self._errors.append(error)

    def error(self) -> exceptions.TransferError:
        """The error to raise for all of them.

        The last one where all are of a kind, so that a caller can tell
        what to do; else one that says that there are several.
        """
        last = self._errors[-1]
        kinds = {type(error) for error in self._errors}
        if len(kinds) == 1:
            found = last
        else:
            found = exceptions.AllSourcesFailed(
                f'all {len({each.location for each in self._all})} '
                f'locations failed: '
                + '; '.join(
                    f'{each.location}: {each.reason}' for each in self._all
                ),
                retryable=any(error.retryable for error in self._errors),
            )
            found.__cause__ = last
        found.attempts = self.all
        return found
