"""How the command line speaks: errors in one line with an exit code, progress, signals, the report of a backtest."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from pipeline.encoding.loading import is_loading
from pipeline.settings_reading import SettingsError
from pipeline.showing import shown

NOISY = ("kafka", "transformers", "numba", "asyncio")
SHOWN_REFUSALS = 10
AWAKE_S = 1.0
COLLECTED = (50_000, 20, 20)
"""So many objects more are looked through for cycles, so many such looks by a longer one."""


class LineFormatter(logging.Formatter):
    """A record is one line, whatever ids it names; what follows it, such as a traceback, is indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line."""
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """The traceback: an error's text in it cannot look like another record."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """The stack."""
        return _indented(super().formatStack(stack_info))


def _indented(lines: str) -> str:
    return "\n".join(f"  {shown(line)}" for line in lines.split("\n"))


class UsageError(ValueError):
    """Arguments that do not fit together; exit 2."""


class Overtaken(RuntimeError):
    """Another instance does this one's work now; exit 3, so that whoever starts services leaves this one ended."""


@contextmanager
def importing() -> Iterator[None]:
    """Import much at once: collections in between find nothing, and take half a second of torch's two.

    What is there afterwards is gone through by no later one either, and those
    are rarer: an epoch's records are many, and hold no cycles.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*COLLECTED)
        gc.enable()


class Stop(threading.Event):
    """Set by SIGTERM and SIGINT; a second SIGINT is a KeyboardInterrupt at once."""

    def __init__(self) -> None:
        """Takes both signals over; only in the main thread."""
        super().__init__()
        self._interrupted = False
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def wait(self, timeout: float | None = None) -> bool:
        """As `Event.wait`, but no signal is slept through.

        One that another thread was given, as when a debugger holds the main
        one, is handled when the main thread next wakes.
        """
        while timeout is None and not super().wait(AWAKE_S):
            pass
        return super().wait(timeout)

    def raise_if_interrupted(self) -> None:
        """KeyboardInterrupt, after a tidy end, where it was SIGINT that asked for it."""
        if self._interrupted:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: object) -> None:
        if number == signal.SIGINT:
            if self.is_set():
                raise KeyboardInterrupt
            self._interrupted = True
        self.set()


@contextmanager
def telling(debug: bool, quiet: bool = False) -> Iterator[None]:
    """Set logging up, and turn errors into one line and an exit code.

    1, 2 for usage and settings, 3 for a learner that was overtaken, 130 interrupted.
    """
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for noisy in NOISY:
        # Not DEBUG: kafka-python would log its requests then, those with a password among them.
        logging.getLogger(noisy).setLevel(logging.INFO if debug else logging.CRITICAL)
    try:
        yield
    except (SettingsError, UsageError) as error:
        _fail(error, 2, debug)
    except Overtaken as error:
        _fail(error, 3, debug)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        _fail(error, 1, debug)


def _fail(error: Exception, code: int, debug: bool) -> None:
    if debug:
        logging.getLogger(__name__).exception("failed")
    told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    print(f"headrace: {shown(' '.join(told.split())) or type(error).__name__}", file=sys.stderr)
    raise SystemExit(code) from None


def left(code: str | int | None) -> NoReturn:
    """End the process with an exit code, at once where a model is still being loaded."""
    if is_loading() and not isinstance(code, str):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    raise SystemExit(code) from None


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal, a plain line now and then otherwise."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(desc=label, unit=f" {unit}", disable=not terminal, leave=False) as bar:
        told = 0

        def advance(done: int, total: int | None) -> None:
            nonlocal told
            if total is not None:
                bar.total = total
            bar.update(done - bar.n)
            if not terminal and done - told >= max((total or 0) // 10, 10_000):
                told = done
                print(f"{label}: {done}{f' of {total}' if total else ''} {unit}", file=sys.stderr)

        yield advance


def print_report(found: dict[str, Any], k: int) -> None:
    """The table of a backtest, a line for each learner, and what was refused."""
    columns = ("n", "ndcg", "hr", "mrr", "auc", "coverage", "gini", "last_half_ndcg", "new_item_ndcg", "new_user_ndcg")
    width = max(12, *(len(name) + 1 for name in found["learners"]))
    titles = [f"{name}@{k}" if name in ("ndcg", "hr") else name for name in columns]
    typer.echo(" " * width + "".join(f"{title:>16}" for title in titles))
    for learner, metrics in found["learners"].items():
        typer.echo(f"{learner:{width}}" + "".join(_cell(metrics[name]) for name in columns))
    speed = found["learners"]["headrace"]["events_per_second"]
    typer.echo(f"{found['events']} events" + (f" at {speed:.0f} events/s" if speed else ""))
    for line in found["refused"][:SHOWN_REFUSALS]:
        typer.echo(f"refused: {shown(line)}", err=True)
    if found["refused_lines"] > SHOWN_REFUSALS:
        typer.echo(f"refused: {found['refused_lines']} lines in all", err=True)
    if "epochs" in found:
        typer.echo(
            f"{found['epochs']} manifests replayed; digests and counts equal; state {found['state_digest'][:16]}"
        )


def _cell(value: float | int | None) -> str:
    return f"{'–' if value is None else value if isinstance(value, int) else format(value, '.4f'):>16}"
