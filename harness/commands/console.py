"""The console of the commands: text that is printed is never markup."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.status import Status
from rich.text import Text

from harness.commands.terminal import discard_output


class _Console(Console):
    """Raises BrokenPipeError where its output is closed, instead of exiting."""

    def on_broken_pipe(self) -> None:
        discard_output()
        raise BrokenPipeError


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints names and paths as they are, brackets too."""
    return _Console(stderr=stderr, markup=False)


def updater(status: Status) -> Callable[[str], None]:
    """Shows a text next to the spinner, as it is."""
    return lambda text: status.update(Text(text))
