"""Are the tests of the core any good? Plant known bugs, one at a time, and see who notices.

Each bug is a replacement in the text of one module, made in a copy of the repository. Two judges look at it: the
simulator with its oracle, and the tests that were written for the module. The exit code is 1 if fewer than nine of
ten bugs are caught, or a replacement does not fit the source any more.

    python tools/mutate.py                  all of them, about ten minutes
    python tools/mutate.py peer             those in deepio_core/peer.py
    python tools/mutate.py --list           what there is
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

ENOUGH = 0.9
"""The part of the bugs that has to be caught."""

SIMULATOR = """
from deepio_core.testing import SessionSimulation, Simulation
for seed in range(600):
    Simulation(seed).run()
    if seed < 150:
        SessionSimulation(seed).run()
"""
"""Fewer runs than in the tests, and no look at the edges: what is judged here is the oracle."""

TIMEOUT = 600
"""Seconds for one judge; a bug that makes the core loop for ever is caught by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """A bug to plant."""

    name: str
    """What is wrong, in a few words."""
    module: str
    """The module whose tests should notice."""
    old: str
    """What stands in deepio_core exactly once."""
    new: str
    """What is to stand there."""


BUGS = (
    Bug(
        name="reports of a former engine are taken",
        module="peer",
        old="report.negotiation == self._negotiation and ",
        new="",
    ),
    Bug(
        name="any error counts as the refusal of `pair`",
        module="peer",
        old="cause = _REFUSALS.get(signal.code)",
        new="cause = _REFUSALS.get(signal.code, Cause.BUSY)",
    ),
    Bug(
        name="paired with anybody counts as paired with whom we asked for",
        module="peer",
        old='other = self._remote_id not in {"", signal.remote_id}',
        new="other = False",
    ),
    Bug(
        name="an unasked pairing is not refused",
        module="peer",
        old="            self._signal(signals.UNPAIR)\n            self._move(trigger)\n",
        new="            self._move(trigger)\n",
    ),
    Bug(
        name="`ready` is sent again though a pairing may be on its way",
        module="peer",
        old="        if not self._ready:\n",
        new="        if True:\n",
    ),
    Bug(
        name="a second offer is applied",
        module="peer",
        old="not self._allows(Trigger.OFFER) or self._remote_described",
        new="not self._allows(Trigger.OFFER)",
    ),
    Bug(
        name="candidates before the description are lost",
        module="peer",
        old="self._candidates.append(signal.candidate)",
        new="pass",
    ),
    Bug(
        name="an engine is left open when the peer leaves",
        module="peer",
        old="        elif target is Stage.LEAVING:\n            self._close_engine()\n",
        new="        elif target is Stage.LEAVING:\n",
    ),
    Bug(
        name="an engine that has closed is closed again",
        module="peer",
        old="            self._engine_open = False\n            self._move(Trigger.ENGINE_CLOSED",
        new="            self._move(Trigger.ENGINE_CLOSED",
    ),
    Bug(
        name="a caller who withdraws is not told as ConnectionFailed",
        module="peer",
        old="elif old is PeerState.CONNECTING and new is not PeerState.CONNECTED:",
        new="elif old is PeerState.CONNECTING and new is PeerState.DISCONNECTING:",
    ),
    Bug(
        name="a peer list does not answer the request",
        module="peer",
        old="        self._lists -= 1\n",
        new="",
    ),
    Bug(
        name="requests for the peer list are forgotten when the link is lost",
        module="peer",
        old='stage"\n        self._give_up_lists(Cause.SIGNALING_LOST)\n',
        new='stage"\n',
    ),
    Bug(
        name="a former session's description counts for the next one",
        module="peer",
        old="self._described = self._remote_described = False\n        self._candidates.clear()",
        new="self._described = False\n        self._candidates.clear()",
    ),
    Bug(
        name="signs of life do not put off the silence",
        module="peer",
        old="            self._move(Trigger.ACTIVITY)\n            self._start(Timer.SILENCE)\n",
        new="            self._move(Trigger.ACTIVITY)\n",
    ),
    Bug(
        name="`unpaired` is not waited for",
        module="states",
        old="                unpaired=Stage.DRAINING,\n                engine_closed=Stage.UNPAIRING,\n",
        new="                unpaired=Stage.DRAINING,\n                engine_closed=Stage.ONLINE,\n",
    ),
    Bug(
        name="a withdrawn invitation is ignored",
        module="states",
        old="                unpaired=Stage.ONLINE,\n                paired_other=Stage.UNPAIRING,\n",
        new="                paired_other=Stage.UNPAIRING,\n",
    ),
    Bug(
        name="a stale `unpaired` ends the request for a pairing",
        module="states",
        old="                Stage.PAIRING,\n                *_LISTS,\n                Trigger.UNPAIRED,\n",
        new="                Stage.PAIRING,\n                *_LISTS,\n                unpaired=Stage.ONLINE,\n",
    ),
    Bug(
        name="an invitation has no deadline",
        module="states",
        old="        Stage.INVITED: Timer.ACCEPT,\n",
        new="",
    ),
    Bug(
        name="two peers that ask for each other stay in it",
        module="states",
        old="                pair_refused=Stage.LEAVING,",
        new="                pair_refused=Stage.AWAITING_OFFER,",
    ),
    Bug(
        name="a lost link ends the connection to the remote peer",
        module="states",
        old='"signaling_closed": Stage.DETACHED',
        new='"signaling_closed": Stage.CLOSING',
    ),
    Bug(
        name="a paired listener still counts as free",
        module="server",
        old="            self._set_busy(remote, True)\n",
        new="",
    ),
    Bug(
        name="nobody hears that the partner has gone",
        module="server",
        old="        self._part(peer)\n        self._outputs.append(PeerDeparted",
        new="        self._outputs.append(PeerDeparted",
    ),
    Bug(
        name="a former partner keeps its end of the pairing",
        module="server",
        old="                self._dissolve(remote.pairing)\n",
        new="                pass\n",
    ),
    Bug(
        name="messages always go to the listener",
        module="server",
        old="self._send(pairing.other(peer), text)",
        new="self._send(pairing.listener, text)",
    ),
    Bug(
        name="peers may speak for the server",
        module="server",
        old='_SERVER_TYPES: Final = frozenset({"status", "peers", "error"})',
        new="_SERVER_TYPES: Final = frozenset[str]()",
    ),
    Bug(
        name="the id of a departed peer stays taken",
        module="server",
        old="        del self._by_id[peer.peer_id]\n",
        new="",
    ),
    Bug(
        name="results are told before they are acknowledged",
        module="session",
        old="            self._take_over()  #",
        new="            pass  #",
    ),
    Bug(
        name="the newest metadata is not remembered",
        module="session",
        old="        self.metadata = metadata\n",
        new="",
    ),
    Bug(
        name="a session whose link is lost does not come back",
        module="session",
        old="            self._retry(closed.cause, closed.detail)\n",
        new="            pass\n",
    ),
    Bug(
        name="a new link has the number of the old one",
        module="session",
        old="link=old.link + 1",
        new="link=old.link",
    ),
    Bug(
        name="a peer that is busy is called all the same",
        module="session",
        old="peer.type in policy.peer_types and not peer.busy",
        new="peer.type in policy.peer_types",
    ),
    Bug(
        name="candidates without a type are not understood",
        module="signals",
        old='_UNTYPED_KEYS: Final = ("candidate", ',
        new="_UNTYPED_KEYS: Final = (",
    ),
)


def copy_repository(target: Path) -> None:
    """Copy what the tests of the core need."""
    for name in ("deepio_core", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)


def tests_of(module: str) -> list[str]:
    """The tests that were written for a module; those of the peer look at the table too."""
    folder = ROOT / "tests" / "core"
    names = {module, "peer"} if module == "states" else {module}
    files = {path for name in names for path in (*folder.glob(f"test_{name}.py"), *folder.glob(f"test_{name}_*.py"))}
    return [str(path.relative_to(ROOT)) for path in sorted(files)]


def notices(command: list[str], folder: Path) -> bool:
    """Whether a command fails in the copy."""
    environment = os.environ | {"CI": "true", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, check=False, capture_output=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def ask(module: str, folder: Path) -> tuple[bool, bool]:
    """Whether the simulator, and the tests written for a module, find anything wrong."""
    tests = tests_of(module)
    pytest = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return notices(["-c", SIMULATOR], folder), bool(tests) and notices(pytest, folder)


def find_place(bug: Bug, folder: Path) -> Path | None:
    """The file that a bug fits: once, in the module that it names or in one that helps it."""
    modules = (folder / "deepio_core").glob("*.py")
    places = [path for path in sorted(modules) for _ in range(path.read_text("utf-8").count(bug.old))]
    return places[0] if len(places) == 1 else None


def judge(bug: Bug, folder: Path) -> tuple[bool, bool]:
    """Plant a bug, ask both judges, and take it out again."""
    path = find_place(bug, folder)
    assert path is not None, "main has seen that every bug fits"
    source = path.read_text("utf-8")
    path.write_text(source.replace(bug.old, bug.new), "utf-8")
    try:
        return ask(bug.module, folder)
    finally:
        path.write_text(source, "utf-8")


def main(arguments: list[str]) -> int:
    """Plant the bugs, print who has noticed what."""
    parser = argparse.ArgumentParser(description="Plant known bugs in the core and see whether the tests notice.")
    parser.add_argument("modules", nargs="*", help="only the bugs in these modules")
    parser.add_argument("--list", action="store_true", help="print the bugs and stop")
    options = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if not options.modules or bug.module in options.modules]
    misfits = [bug.name for bug in bugs if find_place(bug, ROOT) is None]
    for name in misfits:
        print(f"does not fit the source any more: {name}", file=sys.stderr)
    if options.list or misfits or not bugs:
        for bug in bugs:
            print(f"{bug.module:8} {bug.name}")
        return 1 if misfits or not bugs else 0
    caught = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_repository(folder)
        for module in sorted({bug.module for bug in bugs}):
            if any(ask(module, folder)):
                print(f"the tests of {module} fail without any bug", file=sys.stderr)
                return 1
        print(f"{'module':8} {'simulator':10} {'tests':10} bug", flush=True)
        for bug in bugs:
            simulator, tests = judge(bug, folder)
            caught += simulator or tests
            words = ["caught" if verdict else "-" for verdict in (simulator, tests)]
            print(f"{bug.module:8} {words[0]:10} {words[1]:10} {bug.name}", flush=True)
    print(f"{caught} of {len(bugs)} caught")
    return 0 if caught >= ENOUGH * len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
