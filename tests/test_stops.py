"""Whether a signal raised an exception, or the code that was running."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hgwire_wsgi.stops import FAILURES, STOPS, is_from_signal


def leave(*_: Any) -> None:
    sys.exit(3)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def receive(number: int) -> Callable[[], None]:
    def run() -> None:
        os.kill(os.getpid(), number)
        for _ in range(1000):
            pass

    return run


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    installed = {signal.SIGUSR1: leave, signal.SIGUSR2: interrupt, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in installed.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def caught(run: Callable[[], Any]) -> BaseException:
    try:
        run()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_from_a_signal(number: int) -> None:
    assert is_from_signal(caught(receive(number)))


def leave_with_code() -> None:
    raise SystemExit(4)


def interrupt_again() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


@pytest.mark.parametrize("run", [lambda: sys.exit(3), leave_with_code, interrupt_again, lambda: 1 / 0])
def test_from_a_command(run: Callable[[], Any]) -> None:
    assert not is_from_signal(caught(run))


def test_outside_the_main_thread_nothing_is_from_a_signal() -> None:
    found: list[bool] = []

    def run() -> None:
        found.extend(is_from_signal(caught(each)) for each in (leave, interrupt))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False, False]


def test_exceptions_without_a_traceback() -> None:
    assert not any(is_from_signal(stop()) for stop in STOPS)
    assert (Exception, *STOPS) == FAILURES
