"""The driver, with a machine that plays from a script: what goes where, what comes in, in which order, and the ends."""

import threading
from collections import deque
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from deepio_adapters.driver import INBOX_LIMIT, OUTBOX_LIMIT, Driver
from deepio_adapters.engine import EngineConfig
from deepio_adapters.link import LinkClosed, LinkError, memory_link_pair
from deepio_core import inputs, outputs
from deepio_core.closecodes import ABNORMAL
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

BOUND = 10.0


class Script:
    """A machine that notes what it gets, and says what it is told to say about it."""

    def __init__(self, now, *first):
        self.started = now
        self.got = []
        self.timeouts = []
        self.deadline = None
        self.ended = False
        self.said = deque(first)
        self.reactions = {}
        self.changed = anyio.Event()

    def on(self, kind, *said, end=False):
        """What to say about an input of this kind."""
        self.reactions[kind] = (said, end)
        return self

    def handle(self, event, *, now):
        if event == "refuse":
            raise LocalProtocolError("No.")
        self.got.append(event)
        said, end = self.reactions.get(type(event), ((), False))
        self.said += said
        self.ended = self.ended or end
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    def handle_timeout(self, *, now):
        self.timeouts.append(now)
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self.said.append("time")

    def poll(self):
        return self.said.popleft() if self.said else None

    async def until(self, condition):
        with anyio.fail_after(BOUND):
            while not condition():
                await self.changed.wait()

    def of(self, kind):
        return [event for event in self.got if isinstance(event, kind)]


class FakeEngine:
    """Notes the effects; reports what the test reports."""

    def __init__(self):
        self.effects = []
        self.closed = False
        self.report: Any = None

    def perform(self, effect):
        self.effects.append(effect)

    @asynccontextmanager
    async def open(self, config, report):
        self.report = report
        try:
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.closed = True


class Bench:
    """A driver with all that is around it."""

    def __init__(self, *first):
        self.machine: Any = None
        self.first = first
        self.engine = FakeEngine()
        self.events: list[Any] = []
        self.far: list[Any] = []
        self.refusal: LinkError | None = None
        self.dialling = anyio.Event()
        self.dial_blocks = False
        self.dials_ended = 0
        self.driver = Driver(
            self.make, dial=self.dial, engine=EngineConfig(), open_engine=self.engine.open, on_event=self.events.append
        )

    def make(self, now):
        self.machine = Script(now, *self.first)
        return self.machine

    @asynccontextmanager
    async def dial(self):
        try:
            self.dialling.set()
            if self.dial_blocks:
                await anyio.sleep_forever()
            if self.refusal is not None:
                raise self.refusal
            ours, theirs = memory_link_pair()
            self.far.append(theirs)
            yield ours
            await ours.aclose()
        finally:
            self.dials_ended += 1

    @asynccontextmanager
    async def running(self):
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.driver.run)
            yield self
            tasks.cancel_scope.cancel()
        assert self.engine.closed


OPEN = outputs.OpenSignaling(link=1)


async def opened(bench):
    """The far end of the link that the driver has opened."""
    await bench.machine.until(lambda: bench.machine.of(inputs.SignalingOpened))
    return bench.far[0]


async def test_signals_go_to_the_link_and_come_from_it_in_order():
    async with Bench(OPEN).running() as bench:
        far = await opened(bench)
        for text in ("a", "b", "c"):
            bench.machine.said.append(outputs.SendSignaling(link=1, text=text))
        bench.driver.feed("anything")
        assert [await far.receive() for _ in range(3)] == ["a", "b", "c"]
        for text in ("1", "2"):
            await far.send(text)
        await bench.machine.until(lambda: len(bench.machine.of(inputs.SignalingReceived)) == 2)
        assert [event.text for event in bench.machine.of(inputs.SignalingReceived)] == ["1", "2"]


async def test_the_far_side_closes_the_link():
    async with Bench(OPEN).running() as bench:
        await (await opened(bench)).aclose(4000, "enough")
        await bench.machine.until(lambda: bench.machine.of(inputs.SignalingClosed))
        (closed,) = bench.machine.of(inputs.SignalingClosed)
        assert (closed.link, closed.code, closed.reason) == (1, 4000, "enough")
        # What comes late for it is dropped.
        bench.machine.said += [outputs.SendSignaling(link=1, text="late"), outputs.CloseSignaling(link=1)]
        bench.driver.feed("anything")
        assert bench.dials_ended == 1


async def test_the_machine_closes_the_link_after_what_it_has_said_before():
    async with Bench(OPEN).running() as bench:
        far = await opened(bench)
        bench.machine.said += [
            outputs.SendSignaling(link=1, text="last words"),
            outputs.CloseSignaling(link=1, code=4001, reason="bye"),
        ]
        bench.driver.feed("anything")
        assert await far.receive() == "last words"
        with pytest.raises(LinkClosed) as caught:
            await far.receive()
        assert (caught.value.code, caught.value.reason) == (4001, "bye")
        await bench.machine.until(lambda: bench.machine.of(inputs.SignalingClosed))


async def test_a_link_that_cannot_be_opened_is_told_with_its_cause():
    bench = Bench(OPEN)
    bench.refusal = LinkError("Nobody there.", cause=Cause.UNREACHABLE, remedy="Look again.")
    async with bench.running():
        await bench.machine.until(lambda: bench.machine.of(inputs.SignalingFailed))
        (failed,) = bench.machine.of(inputs.SignalingFailed)
        assert (failed.link, failed.cause, failed.detail) == (1, Cause.UNREACHABLE, "Nobody there. Look again.")


async def test_a_link_is_given_up_while_it_is_opened():
    bench = Bench(OPEN)
    bench.dial_blocks = True
    async with bench.running():
        await bench.dialling.wait()
        bench.machine.said.append(outputs.CloseSignaling(link=1))
        bench.driver.feed("anything")
        await bench.machine.until(lambda: bench.machine.of(inputs.SignalingFailed))
        assert bench.machine.of(inputs.SignalingFailed)[0].cause is Cause.LOCAL
        assert bench.dials_ended == 1


async def test_a_link_that_takes_nothing_is_given_up(caplog):
    async with Bench(OPEN).running() as bench:
        await opened(bench)
        for number in range(2 * OUTBOX_LIMIT):
            bench.machine.said.append(outputs.SendSignaling(link=1, text=str(number)))
        bench.driver.feed("anything")
        await bench.machine.until(lambda: bench.machine.of(inputs.SignalingClosed))
        assert bench.machine.of(inputs.SignalingClosed)[0].code == ABNORMAL
    assert "given up" in caplog.text


async def test_two_links_at_once_are_told_apart():
    async with Bench(OPEN, outputs.OpenSignaling(link=2)).running() as bench:
        await bench.machine.until(lambda: len(bench.machine.of(inputs.SignalingOpened)) == 2)
        numbers = [event.link for event in bench.machine.of(inputs.SignalingOpened)]
        bench.machine.said.append(outputs.CloseSignaling(link=numbers[0]))
        bench.driver.feed("anything")
        await bench.machine.until(lambda: bench.machine.of(inputs.SignalingClosed))
        await bench.far[1].send("still there")
        await bench.machine.until(lambda: bench.machine.of(inputs.SignalingReceived))
        assert bench.machine.of(inputs.SignalingReceived)[0].link == numbers[1]


EFFECTS = [
    outputs.StartEngine(negotiation=1, remote_id="far", offerer=True),
    outputs.ApplyOffer(negotiation=1, sdp="o"),
    outputs.ApplyAnswer(negotiation=1, sdp="a"),
    outputs.ApplyCandidate(negotiation=1, candidate=None),
    outputs.SendChannel(negotiation=1, text="t"),
    outputs.CloseEngine(negotiation=1),
]


async def test_effects_of_the_engine_and_events_part_ways():
    async with Bench(*EFFECTS, outputs.SignalingLost(), "event").running() as bench:
        assert bench.engine.effects == EFFECTS
        assert bench.driver.engine is bench.engine
        assert bench.events == [outputs.SignalingLost(), "event"]


async def test_reports_of_another_thread_come_in_order():
    async with Bench().running() as bench:
        reports = [inputs.ChannelReceived(negotiation=1, data=str(number)) for number in range(50)]

        def post():
            for report in reports:
                bench.engine.report(report)

        await anyio.to_thread.run_sync(post)
        await bench.machine.until(lambda: len(bench.machine.got) == 50)
        assert bench.machine.got == reports


async def test_a_loop_that_is_behind_drops_the_oldest_data_and_nothing_else():
    async with Bench().running() as bench:
        bench.engine.report(inputs.EngineClosed(negotiation=1))
        for number in range(INBOX_LIMIT + 4):
            bench.engine.report(inputs.ChannelReceived(negotiation=1, data=str(number)))
        for number in range(3):
            bench.engine.report(inputs.EngineClosed(negotiation=number))
        await bench.machine.until(lambda: len(bench.machine.of(inputs.EngineClosed)) == 4)
        assert bench.driver.reports_dropped == 8
        assert bench.machine.got[0] == inputs.EngineClosed(negotiation=1)
        assert bench.machine.of(inputs.ChannelReceived)[0].data == "8"
        assert bench.machine.of(inputs.ChannelReceived)[-1].data == str(INBOX_LIMIT + 3)


async def test_reports_that_are_no_data_are_kept_whatever_their_number():
    async with Bench().running() as bench:
        for number in range(INBOX_LIMIT + 10):
            bench.engine.report(inputs.Activity(negotiation=number))
        await bench.machine.until(lambda: len(bench.machine.got) == INBOX_LIMIT + 10)
        assert bench.driver.reports_dropped == 0


async def test_of_commands_of_a_kind_that_are_posted_the_newest_wins():
    async with Bench().running() as bench:
        bench.driver.post(1)
        bench.driver.post("other")
        bench.driver.post(2)
        await bench.machine.until(lambda: len(bench.machine.got) == 2)
        assert bench.machine.got == ["other", 2]


async def test_a_posted_command_wakes_the_driver_from_any_thread_and_its_refusal_is_logged(caplog):
    async with Bench().running() as bench:
        thread = threading.Thread(target=bench.driver.post, args=("refuse",))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        bench.driver.post(5)
        await bench.machine.until(lambda: bench.machine.got == [5])
    assert "No." in caplog.text


async def test_what_is_posted_before_the_start_waits_for_it():
    bench = Bench()
    bench.driver.post(5)
    async with bench.running():
        await bench.machine.until(lambda: bench.machine.got == [5])


async def test_a_command_that_is_refused_raises_in_the_caller():
    async with Bench().running() as bench:
        with pytest.raises(LocalProtocolError):
            bench.driver.feed("refuse")
        bench.driver.feed("ok")
        assert bench.machine.got == ["ok"]


async def test_what_the_application_feeds_meanwhile_is_drained_in_order():
    bench = Bench()

    def answer(event):
        bench.events.append(event)
        if event == "first":
            bench.machine.on(int, "answer")
            bench.driver.feed(1)
            bench.events.append("fed")

    bench.driver._on_event = answer
    async with bench.running():
        bench.machine.on(str, "first", "second")
        bench.driver.feed("go")
        assert bench.events == ["first", "fed", "second", "answer"]


async def test_the_time_is_told_when_the_deadline_has_come_and_not_before():
    async with Bench().running() as bench:
        bench.machine.deadline = deadline = anyio.current_time() + 0.05
        bench.driver.feed("wakes the clock")
        with anyio.fail_after(BOUND):
            while "time" not in bench.events:  # noqa: ASYNC110 - lists have no event
                await anyio.sleep(0.005)
        assert bench.machine.timeouts[-1] >= deadline


async def test_a_deadline_that_is_moved_nearer_is_kept():
    async with Bench().running() as bench:
        bench.machine.deadline = anyio.current_time() + 3600
        bench.driver.feed("far")
        await anyio.wait_all_tasks_blocked()
        bench.machine.deadline = anyio.current_time() + 0.01
        bench.driver.feed("near")
        with anyio.fail_after(BOUND):
            while "time" not in bench.events:  # noqa: ASYNC110 - lists have no event
                await anyio.sleep(0.005)


async def test_a_deadline_that_is_moved_away_wakes_nobody_and_is_kept():
    async with Bench().running() as bench:
        bench.machine.deadline = anyio.current_time() + 0.05
        bench.driver.feed("near")
        await anyio.wait_all_tasks_blocked()
        looked = len(bench.machine.timeouts)
        bench.machine.deadline = later = anyio.current_time() + 0.1
        bench.driver.feed("further away")
        await anyio.wait_all_tasks_blocked()
        assert len(bench.machine.timeouts) == looked
        with anyio.fail_after(BOUND):
            while "time" not in bench.events:  # noqa: ASYNC110 - lists have no event
                await anyio.sleep(0.005)
        assert bench.machine.timeouts[-1] >= later


@pytest.mark.parametrize("ends", ["feed", "report", "signal"])
async def test_it_runs_until_the_machine_has_ended_whatever_ends_it(ends):
    """A report that ends the machine is taken by the driver's own task: it must notice itself."""
    bench = Bench(OPEN)
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            await tasks.start(bench.driver.run)
            far = await opened(bench)
            if ends == "feed":
                bench.machine.on(str, end=True)
                bench.driver.feed("end")
            elif ends == "report":
                bench.machine.on(inputs.EngineClosed, end=True)
                bench.engine.report(inputs.EngineClosed(negotiation=1))
            else:
                bench.machine.on(inputs.SignalingReceived, end=True)
                await far.send("end")
    assert bench.engine.closed
    assert bench.dials_ended == 1


async def test_an_engine_that_cannot_be_opened_comes_out_of_run():
    @asynccontextmanager
    async def fails(_config, _report):
        raise LocalProtocolError("No engine.")
        yield

    driver = Driver(Bench().make, dial=Bench().dial, engine=EngineConfig(), open_engine=fails, on_event=print)
    with pytest.raises(ExceptionGroup) as caught:
        await driver.run()
    assert [str(error) for error in caught.value.exceptions] == ["No engine."]


@pytest.mark.parametrize("where", ["event", "dial", "machine"])
async def test_a_bug_is_not_swallowed_and_everything_is_closed(where):
    bench = Bench(OPEN)

    def fails(*_arguments, **_keywords):
        raise ZeroDivisionError("a bug")

    if where == "event":
        bench.driver._on_event = fails
    elif where == "dial":
        bench.driver._dial = fails
    with anyio.fail_after(BOUND), pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            await tasks.start(bench.driver.run)
            if where == "machine":
                bench.machine.handle = fails
                bench.engine.report(inputs.EngineClosed(negotiation=1))
            elif where == "event":
                await opened(bench)
                bench.machine.on(inputs.EngineClosed, "event")
                bench.engine.report(inputs.EngineClosed(negotiation=1))
            await anyio.sleep_forever()
    assert caught.group_contains(ZeroDivisionError)
    assert bench.engine.closed


async def test_cancelled_it_closes_link_and_engine():
    bench = Bench(OPEN)
    async with bench.running():
        await opened(bench)
    assert (bench.engine.closed, bench.dials_ended) == (True, 1)
