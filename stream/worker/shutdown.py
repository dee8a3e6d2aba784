"""The end of a process is bounded: first what must be kept, then so long for the libraries."""

import asyncio
import logging
import os
from collections.abc import Callable
from threading import Timer

log = logging.getLogger(__name__)
SNAPSHOT_SECONDS = 700.0  # seconds: the steps of `Engine.stop` end well within them
LIBRARY_SECONDS = 10.0  # after that, for Faust to let go of Kafka


class ShutdownDeadline:
    """Ends the process by itself where its stop does not end: says who held it up, then exits.

    `finish` says why the worker ends, if it must, and gives the exit code. Faust's consumer runs in
    a thread of its own; if that dies at the wrong moment, Faust waits for it for ever.
    """

    def __init__(self, finish: Callable[[], int]) -> None:
        self.finish = finish
        self._timer: Timer | None = None

    def within(self, seconds: float) -> None:
        """Begin to count, or count anew; call it in the event loop."""
        self.cancel()
        self._timer = Timer(seconds, self._end, [asyncio.get_running_loop(), seconds])
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """The stop has ended by itself."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        tasks = [repr(task) for task in asyncio.all_tasks(loop)][:50]
        log.warning("not let go in time", extra={"step": "faust", "seconds": seconds})
        log.info("tasks that did not end: %s", "; ".join(tasks))
        try:
            code = self.finish()
        except Exception:
            log.exception("no reason could be found")
            code = 1
        logging.shutdown()
        os._exit(code)
