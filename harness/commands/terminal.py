"""What every command line has in common: plain lines on stdout and stderr, and the exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

from harness.errors import (
    IgnoredFile,
    UserError,
    is_no_room,
    is_out_of_memory,
    path_error,
    printable,
)

EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def execute(command: Callable[[], Any]) -> int:
    """Call a command: the exit code that it returns, or that of the error it raises."""
    signal.signal(signal.SIGTERM, _interrupt)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # As nohup sets it.
        signal.signal(hangup, _interrupt)
    _prepare_output()
    try:
        code = command()
    except UserError as error:
        code = print_error(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_INPUT
    except click.ClickException as error:
        code = print_error(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command goes on from here", err=True)
        code = EXIT_INTERRUPTED
    except Exception as error:
        if is_out_of_memory(f"{type(error).__name__} {error}"):
            code = print_error("out of memory; the same command goes on from here")
        elif isinstance(error, OSError) and (error.filename is not None or is_no_room(error)):
            code = print_error(str(path_error(error)))
        else:
            raise
    return code if isinstance(code, int) else 0


def print_error(message: str) -> int:
    echo(f"wbc-bench: {' '.join(message.split())}", err=True)
    return EXIT_INPUT


def _prepare_output() -> None:
    """Names in any encoding can be written, and warnings are one line on stderr, each once."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.simplefilter("always", IgnoredFile)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # What is wrong with a file, we say.
    show, shown = warnings.showwarning, set[str]()

    def show_in_one_line(message: Any, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, IgnoredFile):
            show(message, category, *place)
        elif str(message) not in shown:  # Other libraries reset what Python knows of as shown.
            shown.add(str(message))
            print_error(str(message))

    warnings.showwarning = show_in_one_line  # type: ignore[assignment]


def discard_output() -> None:
    """Send stdout, which is closed, nowhere: what its buffer holds would fail at the end too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def echo(*texts: object, err: bool = False) -> None:
    """Print lines, in which no name can move the cursor of the terminal."""
    for text in texts:
        click.echo("\n".join(map(printable, str(text).split("\n"))), err=err)
