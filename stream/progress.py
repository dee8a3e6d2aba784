"""One look for all progress bars: what is done, a bar, how many of how many, and the time."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress(console: Console | None = None, *, quiet: bool = False) -> Progress:
    """A bar on `console`, else on stderr; it is shown as long as its `with` lasts.

    >>> with progress(quiet=True) as bar:
    ...     list(bar.track(range(3), description="threes"))
    [0, 1, 2]
    """
    columns = TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn()
    return Progress(
        *columns,
        TimeElapsedColumn(),
        console=console or Console(stderr=True),
        disable=quiet,
    )
