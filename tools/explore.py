"""Search every order of events that two peers and a server can meet, deeper than the tests do.

Prints for each scenario how many states it has visited; ends with code 1 and the shortest way to it if there is a
state from which the two cannot meet again.

    python tools/explore.py                      the scenarios of the tests
    python tools/explore.py --more 1 "both leave"  one of them, with one more of everything that may happen

The searches of the tests take half a minute together. One more of everything takes minutes for the smaller ones, and
gigabytes for the larger ones: `--limit` ends a search in time.
"""

import argparse
import sys
import time
from dataclasses import replace

from tests.core.exhaustive import SCENARIOS, Search
from tests.core.small_world import Scenario, SmallWorld


def more(scenario: Scenario, extra: int) -> Scenario:
    """The same with `extra` more of everything."""
    return replace(
        scenario,
        alice={plan: count + extra for plan, count in scenario.alice.items()},
        bob={plan: count + extra for plan, count in scenario.bob.items()},
    )


def explore(scenario: Scenario, limit: int) -> bool:
    """Search one scenario and print what was found; tell whether that is nothing bad."""
    started_at = time.monotonic()
    search = Search(scenario, SmallWorld(), limit=limit)
    search.run()
    ends = search.find_dead_ends()
    seconds = time.monotonic() - started_at
    print(f"{scenario.name}: {len(search.states)} states in {seconds:.1f} s, {len(ends)} dead ends", flush=True)
    if ends:
        print("\n".join(f"    {step}" for step in ends[0].path))
        print(f"    {ends[0].state}")
    return not ends


def main() -> int:
    """Search the scenarios named, or all."""
    parser = argparse.ArgumentParser(description="Search all orders of events.")
    parser.add_argument("names", nargs="*", metavar="scenario", help=", ".join(s.name for s in SCENARIOS))
    parser.add_argument("--more", type=int, default=0, help="how much more of everything may happen")
    parser.add_argument("--limit", type=int, default=5_000_000, help="most states of a scenario")
    options = parser.parse_args()
    unknown = set(options.names) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}")
    chosen = [scenario for scenario in SCENARIOS if not options.names or scenario.name in options.names]
    good = [explore(more(scenario, options.more), options.limit) for scenario in chosen]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
