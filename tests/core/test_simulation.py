"""Thousands of runs in which everything goes wrong; together they must take every edge of the table.

A failing run prints its seed and the journals of its peers. To see it again:

    python -c "from deepio_core.testing import Simulation; Simulation(SEED).run()"
"""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from deepio_core.states import TRANSITIONS, Stage, Trigger
from deepio_core.testing import SessionSimulation, Simulation, replay

pytestmark = pytest.mark.search

ROOT = Path(__file__).resolve().parents[2]

# More seeds than needed: each edge is taken several times, so that a change which shifts the runs loses none.
CHUNK = 250
CHUNKS = range(10)
SESSION_CHUNK = 100
SESSION_CHUNKS = range(3)


@cache
def edges_of(chunk: int) -> Counter[tuple[Stage, Trigger]]:
    """Run the seeds of a chunk; the edges that they have taken."""
    edges: Counter[tuple[Stage, Trigger]] = Counter()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        simulation = Simulation(seed)
        simulation.run()
        edges.update(simulation.world.edges)
    return edges


@pytest.mark.parametrize("chunk", CHUNKS)
def test_peers_keep_the_rules_and_can_meet_again(chunk: int) -> None:
    assert edges_of(chunk)


@pytest.mark.timeout(300)  # alone it has to run all chunks
def test_every_edge_of_the_table_is_taken() -> None:
    taken: Counter[tuple[Stage, Trigger]] = Counter()
    for chunk in CHUNKS:
        taken.update(edges_of(chunk))
    table = [(stage, trigger) for stage, row in TRANSITIONS.items() for trigger in row]
    missed = [f"{stage.value} + {trigger.value}" for stage, trigger in table if not taken[stage, trigger]]
    assert not missed, f"{len(CHUNKS) * CHUNK} runs have not taken: {missed}"
    assert set(taken) <= set(table)


@pytest.mark.parametrize("chunk", SESSION_CHUNKS)
def test_sessions_find_each_other_whatever_happens(chunk: int) -> None:
    for seed in range(chunk * SESSION_CHUNK, (chunk + 1) * SESSION_CHUNK):
        SessionSimulation(seed).run()


@pytest.mark.parametrize("seed", range(24))
def test_journals_replay(seed: int) -> None:
    peers, sessions = Simulation(seed), SessionSimulation(seed)
    peers.run()
    sessions.run()
    for node in (*peers.world.nodes, *sessions.world.nodes):
        for journal, factory in node.lives:
            assert replay(journal, factory).entries == journal.entries


def digest(seeds: range) -> str:
    """All that has happened in some runs, in short."""
    summary = hashlib.sha256()
    for seed in seeds:
        for simulation in (Simulation(seed), SessionSimulation(seed)):
            simulation.run()
            for node in simulation.world.nodes:
                for journal, _ in node.lives:
                    summary.update(str(journal).encode())
    return summary.hexdigest()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_gives_the_same_run_whatever_the_order_of_hashes(hash_seed: str) -> None:
    program = "from tests.core.test_simulation import digest; print(digest(range(6)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == digest(range(6))
