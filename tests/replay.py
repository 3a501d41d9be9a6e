"""Replays every recording in a folder against our client and server roles, and prints what came of it.

    python -m tests.replay FOLDER [FOLDER...]

One line for each file and part: how many messages were as recorded, and which listed differences were met. Ends with
status 1 if anything was not as recorded and no row of docs/server-differences.md or docs/client-differences.md says so.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from tests.transcripts.recording import find_recordings, scenario_name
from tests.transcripts.replay import NOTHING_TO_REPLAY, FileReport, replay_file
from tests.transcripts.report import Report


def _replay(path: Path) -> FileReport:
    try:
        return replay_file(path)
    except Exception:  # noqa: BLE001 - whatever breaks at one file is a finding, and the others are still wanted
        return FileReport(scenario_name(path), errors=[traceback.format_exc()])


def _print(report: FileReport) -> None:
    if not list(report.parts):
        print(f"{report.name:<64} -         {NOTHING_TO_REPLAY.get(report.name, 'nothing to replay')}")
    for index, (name, part) in enumerate(report.parts):
        print(f"{'' if index else report.name:<64} {name:<9} {part}")
    for problem in report.problems:
        print(f"    ! {problem}")


def main(arguments: list[str]) -> int:
    """Replay the folders; 0 if everything is as recorded or as listed."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="+", type=Path)
    paths = [path for folder in parser.parse_args(arguments).folder for path in find_recordings(folder)]
    total, broken = Report(), 0
    for path in paths:
        report = _replay(path)
        _print(report)
        broken += bool(report.problems)
        for _, part in report.parts:
            total.add(part)
    print(f"\n{len(paths)} files, {broken} with unexplained deviations; {total}")
    return 1 if broken or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
