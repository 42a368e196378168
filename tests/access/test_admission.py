"""Admission control: lanes, shares of clients, the queue, and its end."""

from __future__ import annotations

import logging
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from hgwire_wsgi.access import admission
from hgwire_wsgi.access.admission import Admission, AdmissionControl, Lane, Slot
from hgwire_wsgi.errors import ServerBusy

LANES: tuple[Lane, ...] = ("receive", "send", "make")


def control(threads: int = 8, **settings: object) -> AdmissionControl:
    return AdmissionControl(Admission(**{"wait": 0, "make_wait": 0, "burst": 0, **settings}), threads)  # type: ignore[arg-type]  # any setting


def full(made: AdmissionControl, lane: Lane, client: str = "") -> list[Slot]:
    """Take slots until one is refused."""
    slots = []
    while True:
        try:
            slots.append(made.enter(lane, (client or f"client {len(slots)}",)))
        except ServerBusy:
            return slots


def queued(made: AdmissionControl, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(made._queue) != count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("threads", [2, 3, 4, 5, 8, 16, 33])
def test_a_quarter_of_the_threads_stays_free(threads: int) -> None:
    """Whatever is asked for, by any number of clients, waiting requests included."""
    made = control(threads)
    slots = [*full(made, "send"), *full(made, "receive"), *full(made, "send", "other")]
    assert 1 <= len(slots) <= made.slots == threads - -(-threads // 4)
    assert made.limits["send"] + made.limits["receive"] >= made.slots


def test_neither_lane_takes_all_slots() -> None:
    made = control(8)
    assert (made.slots, made.limits["send"], made.limits["receive"], made.limits["make"]) == (6, 5, 3, 4)
    assert len(full(made, "send")) == 5
    assert len(full(made, "receive")) == 1


def test_settings_take_the_place_of_shares() -> None:
    made = control(8, send=2, receive=99, make=1)
    assert made.limits == {"send": 2, "receive": 6, "make": 1}
    assert len(full(made, "make", "one")) == 1


@pytest.mark.parametrize(("lane", "share"), [("send", 4), ("receive", 2), ("make", 3)])
def test_one_client_never_takes_a_whole_lane(lane: Lane, share: int) -> None:
    made = control(8)
    assert len(full(made, lane, "greedy")) == share
    assert made.enter(lane, ("other",)).clients == ("other",)


def test_one_client_never_takes_all_slots_of_all_lanes() -> None:
    made = control(8)
    assert len([*full(made, "send", "greedy"), *full(made, "receive", "greedy")]) == 5
    made.enter("receive", ("other",))


def test_address_and_user_count_both() -> None:
    made = control(8, client=2)
    made.enter("send", ("address", "user"))
    made.enter("send", ("address", "another user"))
    with pytest.raises(ServerBusy):
        made.enter("send", ("address", "third user"))
    made.enter("send", ("another address", "user"))
    with pytest.raises(ServerBusy):
        made.enter("send", ("third address", "user"))


def test_nobody_is_told_apart_without_a_name() -> None:
    made = control(8)
    for _ in range(5):
        made.enter("send")


def test_a_refusal_says_when_to_come_back() -> None:
    made = control(2, retry_after=7)
    made.enter("send")
    with pytest.raises(ServerBusy, match="the server is busy; try again in 7 seconds") as refused:
        made.enter("send")
    assert refused.value.headers == (("Retry-After", "7"),)
    assert refused.value.http_status == 503


def test_a_released_slot_is_free_once() -> None:
    made = control(2)
    slot = made.enter("send")
    slot.release()
    slot.release()
    made.enter("send")
    with pytest.raises(ServerBusy):
        made.enter("send")
    assert not made._queue


def test_moving_to_another_lane_keeps_the_slot() -> None:
    made = control(8, send=1)
    slot = made.enter("receive", ("one",))
    slot.move("receive")
    slot.move("send")
    assert made._used == {"receive": 0, "send": 1}
    other = made.enter("receive", ("two",))
    with pytest.raises(ServerBusy):
        other.move("send")
    other.release()
    assert made._used == {"receive": 0, "send": 1}
    assert made._clients == {("send", "one"): 1}


def test_a_move_frees_a_place_in_its_lane() -> None:
    made = control(8, receive=1, wait=10)
    slot = made.enter("receive", ("one",))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(made.enter, "receive", ("two",))
        queued(made, 1)
        slot.move("send")
        assert waiting.result(10).lane == "receive"


def test_waiting_requests_occupy_threads() -> None:
    """Two wait for the lane; the next one has no thread to wait in."""
    made = control(4, send=1, client=3, wait=10)
    slot = made.enter("send", ("one",))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(made.enter, "send", (name,)) for name in ("two", "three")]
        queued(made, 2)
        for lane in ("send", "receive"):
            with pytest.raises(ServerBusy):
                made.enter(lane, ("four",))
        slot.release()
        first = next(each for each in waiting if wait_done(each, waiting))
        first.result(10).release()
        for each in waiting:
            each.result(10)


def wait_done(one: Future[Slot], all_of_them: list[Future[Slot]]) -> bool:
    while not any(each.done() for each in all_of_them):
        time.sleep(0.001)
    return one.done()


def test_one_client_does_not_fill_the_queue() -> None:
    made = control(8, send=2, client=2, wait=10)
    slots = [made.enter("send", ("greedy",)), made.enter("send", ("other",))]
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(made.enter, "send", ("greedy",))
        queued(made, 1)
        with pytest.raises(ServerBusy):
            made.enter("send", ("greedy",))
        slots[0].release()
        waiting.result(10)


def test_clients_with_fewer_slots_go_first() -> None:
    made = control(16, send=3, wait=10)
    slots = [made.enter("send", (name,)) for name in ("busy", "busy", "third")]
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(made.enter, "send", ("busy",))
        queued(made, 1)
        idle = pool.submit(made.enter, "send", ("idle",))
        queued(made, 2)
        slots[2].release()
        assert idle.result(10).clients == ("idle",)
        assert not busy.done()
        slots[0].release()
        busy.result(10)


def test_makers_wait_without_a_place() -> None:
    """They have a slot already, so their number is bounded."""
    made = control(2, make=1, make_wait=10)
    sending, making = made.enter("send"), made.enter("make")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(made.enter, "make")
        queued(made, 1)
        sending.release()
        made.enter("send")
        making.release()
        assert waiting.result(10).lane == "make"


def test_who_waits_too_long_is_refused() -> None:
    made = control(8, send=1, wait=0.05)
    slot = made.enter("send", ("one",))
    start = time.monotonic()
    with pytest.raises(ServerBusy):
        made.enter("send", ("two",))
    assert 0.05 <= time.monotonic() - start < 5
    slot.release()
    made.enter("send", ("two",))


def test_a_burst_passes() -> None:
    """Fifty clients at once from one address, each for a moment, on eight threads."""
    made = control(8, wait=5, burst=5)

    def send(number: int) -> None:
        slot = made.enter("send", ("address",))
        most.append(made._used["send"])
        time.sleep(0.001)
        slot.release()

    most: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(50)))
    assert len(most) == 50
    assert max(most) <= 4


def test_a_burst_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that keep their slots delay the others once, until the next burst."""
    made = control(4, wait=10, burst=0.1)
    for lane in ("send", "send", "receive"):
        made.enter(lane)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(ServerBusy):
            made.enter("send")
    assert 0.1 <= time.monotonic() - began < 1
    first, left = made._burst_began, []
    for seconds in (0.09, 0.11, 0.99, 1.01, 1.12):
        monkeypatch.setattr(admission.time, "monotonic", lambda now=first + seconds: now)
        left.append(round(made._left_of_burst(), 2))
    assert left == [0.01, 0, 0, 0.1, 0]


def test_a_burst_never_exceeds_the_slots() -> None:
    """One slot is given back while two requests of another lane wait in a burst: only one of them gets it."""
    made = control(8, wait=10, burst=10)
    slots = [made.enter("send", (f"client {number}",)) for number in range(5)]
    made.enter("receive", ("client 5",))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(made.enter, "receive", (f"client {number}",)) for number in (6, 7)]
        queued(made, 2)
        slots[0].release()
        first = next(each for each in waiting if wait_done(each, waiting))
        assert made._used == {"send": 4, "receive": 2}
        queued(made, 1)
        slots[1].release()
        for each in waiting:
            assert each.result(10).lane == "receive"
    assert first.done()


def test_a_slot_is_free_for_others_during_a_burst() -> None:
    made = control(8, wait=10, burst=10, client=2)
    slots = [made.enter("send", ("greedy",)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(made.enter, "send", ("greedy",)) for _ in range(2)]
        queued(made, 2)
        made.enter("send", ("other",))
        for slot in slots:
            slot.release()
        for each in waiting:
            each.result(10)


def test_admitted_at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot comes just after the wait has ended, before the request has left the queue."""
    made = control(8, send=1, wait=10)
    slot = made.enter("send")

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        slot.release()
        return False

    monkeypatch.setattr(threading.Event, "wait", wait)
    assert made.enter("send").lane == "send"


def test_the_log_has_one_line_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    made = control(2)
    made.enter("send")
    with caplog.at_level(logging.WARNING, "hgwire_wsgi"):
        for seconds in (0, 10, 49, 2):
            now[0] += seconds
            with pytest.raises(ServerBusy):
                made.enter("receive")
    assert [record.getMessage() for record in caplog.records] == [
        f"the server is busy: {count} requests refused, the last one in lane receive (receive 0/1, send 1/1, make 0/4)"
        for count in (1, 3)
    ]


def test_settings_are_checked() -> None:
    for wrong in ({"threads": 0}, {"send": 0}, {"make": 0}, {"wait": -1}, {"retry_after": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Admission(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_many_threads_never_exceed_the_limits() -> None:
    made = control(8, wait=0.01)
    most: list[int] = []

    def work(number: int) -> None:
        choose = random.Random(number)
        for _ in range(200):
            try:
                slot = made.enter(choose.choice(LANES), (f"client {number % 3}",))
            except ServerBusy:
                continue
            try:
                most.append(made._used["receive"] + made._used["send"])
                if choose.random() < 0.5:
                    slot.move(choose.choice(LANES[:2]) if slot.lane != "make" else "make")
            except ServerBusy:
                pass
            slot.release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(most) <= made.slots
    assert not +made._used
    assert not made._clients
    assert not made._queue
