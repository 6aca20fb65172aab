"""Leaving a store alone while it is down."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from vllm_npu_kv_connector.tiers.store import Outage, StoreUnavailableError


class CircuitBreaker:
    """Stops calls for a while after one found the store unavailable.

    After a pause one caller may try. If that fails too, the pause doubles, up to a limit; if it
    doesn't, all may call again. It logs a line as it stops calls and one as it lets them
    through again.
    """

    def __init__(
        self,
        what: str,
        logger: logging.Logger,
        *,
        opens_on: Collection[Outage] = tuple(Outage),
        first_pause_s: float = 2.0,
        longest_pause_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let calls through.

        Args:
            what: is called, for the log, as in "KV tier at /cache".
            logger: takes the lines.
            opens_on: outages that stop calls; others are none of its business.
            first_pause_s: how long calls stop at first.
            longest_pause_s: how long they stop at most.
            clock: tells the time, in seconds.
        """
        self._what = what
        self._logger = logger
        self._opens_on = opens_on
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._lock = threading.Lock()
        self._pause_s = 0.0  # 0 while calls go through
        self._until = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether calls are stopped."""
        return self._pause_s > 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around each call to the store.

        Raises:
            StoreUnavailableError: calls are stopped, or the call raised it.
        """
        trying = self._enter()
        try:
            yield
        except StoreUnavailableError as error:
            if error.outage in self._opens_on:
                self._failed(error, trying)
            else:
                self._succeeded(trying)
            raise
        except BaseException:  # The store answered: with an error about the block, say.
            self._succeeded(trying)
            raise
        self._succeeded(trying)

    def _enter(self) -> bool:
        with self._lock:
            if not self.is_open:
                return False
            if self._trying or self._clock() < self._until:
                raise StoreUnavailableError(Outage.PAUSED, f"{self._what}: paused after a failure")
            self._trying = True
            return True

    def _failed(self, error: StoreUnavailableError, trying: bool) -> None:
        with self._lock:
            if self.is_open and not trying:
                return  # one of several calls that were under way as the first failed
            opened = not self.is_open
            longer = self._first_pause_s if opened else 2 * self._pause_s
            self._pause_s = min(longer, self._longest_pause_s)
            self._until = self._clock() + self._pause_s
            self._trying = False
        if opened:
            self._logger.warning(
                "%s: %s. It is left alone for %g s, then tried again; blocks that it would have "
                "had are computed meanwhile.",
                self._what,
                error,
                self._pause_s,
            )

    def _succeeded(self, trying: bool) -> None:
        with self._lock:
            if not trying:
                return
            self._pause_s = 0.0
            self._trying = False
        self._logger.info("%s: works again.", self._what)
