"""The table of stages and edges as such: complete, without dead ends, and no wider than the protocol."""

from collections.abc import Iterable

import pytest

from deepio_core.states import COMMANDS, STAGE_TIMERS, STATE_OF, TRANSITIONS, PeerState, Stage, Trigger
from deepio_core.timers import Timer
from tools import draw_states

STATE_GRAPH = {
    PeerState.STARTING: {PeerState.ONLINE, PeerState.CLOSING, PeerState.CLOSED},
    PeerState.ONLINE: {PeerState.LISTENING, PeerState.CONNECTING, PeerState.CLOSING, PeerState.CLOSED},
    # Not in the originals: LISTENING > ONLINE, the application stops listening.
    PeerState.LISTENING: {PeerState.ONLINE, PeerState.CONNECTING, PeerState.CLOSING, PeerState.CLOSED},
    PeerState.CONNECTING: {
        PeerState.CONNECTED,
        PeerState.ONLINE,
        PeerState.DISCONNECTING,
        PeerState.CLOSING,
        PeerState.CLOSED,
    },
    # Not in the originals: CONNECTED > CLOSED, the remote peer closes when the signaling connection is lost already.
    PeerState.CONNECTED: {PeerState.DISCONNECTING, PeerState.CLOSING, PeerState.CLOSED},
    PeerState.DISCONNECTING: {PeerState.ONLINE, PeerState.CLOSING, PeerState.CLOSED},
    PeerState.CLOSING: {PeerState.CLOSED},
    PeerState.CLOSED: set(),
}
"""What a session looks like from outside."""

WITH_ENGINE = {
    Stage.OFFERING,
    Stage.AWAITING_ANSWER,
    Stage.AWAITING_OFFER,
    Stage.ANSWERING,
    Stage.OPENING,
    Stage.CONNECTED,
    Stage.PARTING,
}
"""Where an engine runs that nobody has told to close."""


def reachable(first: Stage) -> set[Stage]:
    seen: set[Stage] = set()
    waiting = [first]
    while waiting:
        stage = waiting.pop()
        if stage not in seen:
            seen.add(stage)
            waiting += TRANSITIONS[stage].values()
    return seen


def stages_with(triggers: Iterable[Trigger]) -> set[Stage]:
    return {stage for stage, row in TRANSITIONS.items() if set(triggers) & set(row)}


def test_states_have_the_numbers_of_hyperpeer_py() -> None:
    assert [(state.name, state.value) for state in PeerState] == [
        ("STARTING", 1),
        ("ONLINE", 2),
        ("LISTENING", 3),
        ("CONNECTING", 4),
        ("CONNECTED", 5),
        ("DISCONNECTING", 6),
        ("CLOSING", 7),
        ("CLOSED", 8),
    ]


def test_every_stage_has_a_row_and_a_state() -> None:
    assert set(TRANSITIONS) == set(Stage)
    assert set(STATE_OF) == set(Stage)
    assert set(STATE_OF.values()) == set(PeerState)


def test_the_table_cannot_be_changed() -> None:
    for mapping in (TRANSITIONS, STATE_OF, STAGE_TIMERS):
        with pytest.raises(TypeError):
            mapping[Stage.CLOSED] = None  # type: ignore[index]


def test_every_stage_is_reached_and_can_end() -> None:
    assert reachable(Stage.STARTING) == set(Stage)
    for stage in Stage:
        assert Stage.CLOSED in reachable(stage)


def test_closed_is_the_only_sink() -> None:
    assert [stage for stage, row in TRANSITIONS.items() if set(row.values()) <= {stage}] == [Stage.CLOSED]
    assert not TRANSITIONS[Stage.CLOSED]


def test_whoever_is_online_can_get_everywhere_again() -> None:
    back = {stage for stage in Stage if Stage.ONLINE in reachable(stage)}
    assert set(Stage) - back == {Stage.DETACHED, Stage.CLOSING, Stage.CLOSED}


def test_every_trigger_is_used() -> None:
    assert {trigger for row in TRANSITIONS.values() for trigger in row} == set(Trigger)


def test_the_states_follow_each_other_as_in_hyperpeer() -> None:
    graph: dict[PeerState, set[PeerState]] = {state: set() for state in PeerState}
    for stage, row in TRANSITIONS.items():
        graph[STATE_OF[stage]] |= {STATE_OF[target] for target in row.values()} - {STATE_OF[stage]}
    assert graph == STATE_GRAPH


def test_commands() -> None:
    assert {trigger.value for trigger in COMMANDS} == {
        "list_peers",
        "listen",
        "connect",
        "accept",
        "disconnect",
        "send",
        "close",
    }


def test_a_stage_expires_exactly_where_a_timer_runs() -> None:
    assert stages_with([Trigger.EXPIRED]) == set(STAGE_TIMERS)
    for stage in STAGE_TIMERS:
        assert TRANSITIONS[stage][Trigger.EXPIRED] is not stage


def test_only_resting_stages_run_no_timer() -> None:
    assert set(Stage) - set(STAGE_TIMERS) == {Stage.ONLINE, Stage.LISTENING, Stage.CLOSED}


def test_time_alone_ends_every_wait() -> None:
    """Nothing but deadlines passing leads out of every stage that has one, without a circle."""
    for first in STAGE_TIMERS:
        stage, seen = first, {first}
        while stage in STAGE_TIMERS:
            stage = TRANSITIONS[stage][Trigger.EXPIRED]
            assert stage not in seen
            seen.add(stage)
        assert stage in {Stage.ONLINE, Stage.CLOSED}


def test_timers_of_the_stages_are_those_of_the_table_only() -> None:
    assert set(Timer) - set(STAGE_TIMERS.values()) == {Timer.LIST, Timer.POLL, Timer.RETRY}


def test_close_is_possible_until_it_is_asked_for() -> None:
    assert set(Stage) - stages_with([Trigger.CLOSE]) == {Stage.CLOSING, Stage.CLOSED}
    assert {row[Trigger.CLOSE] for row in TRANSITIONS.values() if Trigger.CLOSE in row} == {Stage.CLOSING}


def test_peers_are_listed_wherever_a_signaling_connection_is_up() -> None:
    deaf = {Stage.STARTING, Stage.DETACHED, Stage.CLOSING, Stage.CLOSED}
    assert stages_with([Trigger.LIST_PEERS]) == stages_with([Trigger.PEER_LIST]) == set(Stage) - deaf


def test_the_signaling_connection_may_go_wherever_there_is_one() -> None:
    assert set(Stage) - stages_with([Trigger.SIGNALING_CLOSED]) == {Stage.DETACHED, Stage.CLOSED}


def test_unpaired_may_come_wherever_a_server_is_heard() -> None:
    deaf = {Stage.STARTING, Stage.DETACHED, Stage.CLOSING, Stage.CLOSED}
    assert stages_with([Trigger.UNPAIRED]) == set(Stage) - deaf


def test_every_end_of_an_engine_is_known_wherever_one_runs() -> None:
    ends = {
        Trigger.UNPAIRED: Stage.DRAINING,
        Trigger.NOT_PAIRED: Stage.LEAVING,
        Trigger.PAIRED_OTHER: Stage.LEAVING,
        Trigger.ENGINE_FAILED: Stage.LEAVING,
        Trigger.EXPIRED: Stage.LEAVING,
        Trigger.ENGINE_CLOSED: Stage.UNPAIRING,
        Trigger.CLOSE: Stage.CLOSING,
    }
    for stage in WITH_ENGINE:
        assert ends.items() <= TRANSITIONS[stage].items(), stage


def test_the_page_shows_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_states.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_is_found() -> None:
    page = draw_states.PAGE.read_text(encoding="utf-8")
    assert draw_states.redrawn(page) == page
    stale = page.replace("| `LISTENING` |", "| `LOUNGING` |")
    assert stale != page
    assert draw_states.redrawn(stale) == page


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="markers"):
        draw_states.redrawn("# No page of ours\n")
