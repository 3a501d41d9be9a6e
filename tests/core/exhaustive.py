"""Every order of events that two peers and a server can meet, searched breadth first.

In each state everything that can happen next does happen, each in a successor of its own.
"""

from typing import Final, NamedTuple

from tests.core.small_world import NAMES, Action, Scenario, SmallWorld, State


class DeadEnd(NamedTuple):
    """A state from which the two cannot meet again."""

    path: tuple[str, ...]
    """A shortest way to it."""
    state: str
    """It, in a line."""


class Search:
    """All states of a scenario, breadth first.

    Args:
        scenario: What happens.
        world: Where it happens.
        limit: Most states; more are an error.
    """

    def __init__(self, scenario: Scenario, world: SmallWorld, *, limit: int = 10_000_000) -> None:
        self.world = world
        self.states: list[State] = []
        """In the order in which they were reached."""
        self._limit = limit
        self._numbers: dict[State, int] = {}
        self._origins: list[tuple[int, Action] | None] = []
        self._calmer: list[int | None] = []
        self._add(self.world.begin(scenario), None)

    def run(self) -> None:
        """Visit every state."""
        act, arrivals, decisions = self.world.act, self.world.arrivals, self.world.decisions
        for number, state in enumerate(self.states):  # which grows meanwhile
            calming = self.world.calming(state)
            self._calmer.append(None)
            for index in (0, 1):
                for what in (*arrivals(state[index]), *decisions(state[index])):
                    action = index, what
                    following = act(state, action)
                    if following is not None:
                        reached = self._add(following, (number, action))
                        if action == calming:
                            self._calmer[number] = reached
            assert len(self.states) <= self._limit, f"more than {self._limit} states"

    def _add(self, state: State, origin: tuple[int, Action] | None) -> int:
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self._origins.append(origin)
        return number

    def find_dead_ends(self) -> list[DeadEnd]:
        """The states from which the two cannot meet again, whoever calls; those with the shortest way first."""
        verdicts: dict[int, bool] = {}
        ends: list[DeadEnd] = []
        for number in range(len(self.states)):
            trail = [number]
            while trail[-1] not in verdicts:
                calmer = self._calmer[trail[-1]]
                if calmer is None:
                    state = self.states[trail[-1]]
                    verdicts[trail[-1]] = all(self.world.meet(state, caller) for caller in (0, 1))
                else:
                    assert calmer not in trail, f"never comes to rest: {self.path(number)}"
                    trail.append(calmer)
            verdict = verdicts[trail[-1]]
            verdicts.update(dict.fromkeys(trail, verdict))
            if not verdict:
                ends.append(DeadEnd(tuple(self.path(number)), self.world.describe(self.states[number])))
        return ends

    def path(self, number: int) -> list[str]:
        """A shortest way to a state."""
        steps: list[str] = []
        while (origin := self._origins[number]) is not None:
            number, (index, what) = origin
            steps.append(f"{NAMES[index]}: {what}")
        return steps[::-1]


SCENARIOS: Final = (
    Scenario(name="both connect", alice={"listen": 1, "connect": 1}, bob={"listen": 1, "connect": 1}),
    Scenario(name="connect versus listen", alice={"connect": 2}, bob={"listen": 2}),
    Scenario(name="both leave", alice={"connect": 1, "disconnect": 1}, bob={"listen": 1, "disconnect": 1}),
    Scenario(name="leave versus offer", alice={"connect": 2, "disconnect": 1}, bob={"listen": 1}),
    Scenario(name="close at any point", alice={"connect": 1, "close": 1}, bob={"listen": 1, "close": 1}, starting=True),
    Scenario(name="cut at any point", alice={"connect": 1, "cut": 1}, bob={"listen": 1, "cut": 1}),
    Scenario(name="close and return", alice={"connect": 1, "close": 1, "return": 1}, bob={"listen": 2}),
    Scenario(name="engines fail", alice={"connect": 1, "fail": 1, "outage": 1}, bob={"listen": 1, "fail": 1}),
)
"""What the tests search."""
