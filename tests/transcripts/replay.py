"""Replays one file against everything of ours that can play a part in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.transcripts.client_replay import replay_client
from tests.transcripts.contents import read_contents
from tests.transcripts.recording import Recording, load
from tests.transcripts.report import Report, listed_differences
from tests.transcripts.server_replay import replay_server
from tests.transcripts.session_replay import is_deep_io, replay_session
from tests.transcripts.tables import replay_table

NOTHING_TO_REPLAY = {
    "matrix-answerer-has-track-kind-not-offered": "whether aiortc makes an answer: there is no message in it",
    "matrix-stun-gathering-time": "how long aiortc gathers candidates: there is no message in it",
}
"""Files without anything for the core, each with the reason. Any other file in which nothing is replayed fails."""


@dataclass
class FileReport:
    """What replaying one file has found. A part that the file does not have is None."""

    name: str
    server: Report | None = None
    clients: Report | None = None
    sessions: Report | None = None
    contents: Report | None = None
    table: Report | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def parts(self) -> Iterator[tuple[str, Report]]:
        for name in ("server", "clients", "sessions", "contents", "table"):
            part: Report | None = getattr(self, name)
            if part is not None:
                yield name, part

    @property
    def problems(self) -> list[str]:
        """All that no listed difference explains."""
        return [*self.errors, *(f"{name}: {problem}" for name, part in self.parts for problem in part.problems)]


def replay(recording: Recording) -> FileReport:
    """Replay a recording: server role, client role for each connection, session for each deep_io, and contents."""
    report = FileReport(recording.name)
    if recording.connections:
        report.server = replay_server(recording)
        report.clients = Report()
        for connection in recording.connections:
            report.clients.add(replay_client(recording, connection))
            if is_deep_io(recording, connection):
                report.sessions = report.sessions or Report()
                report.sessions.add(replay_session(recording, connection))
        report.contents = read_contents(recording)
    if recording.table:
        report.table = replay_table(recording)
    if not list(report.parts) and recording.name not in NOTHING_TO_REPLAY:
        report.errors.append("nothing in it could be replayed")
    listed = listed_differences("server-differences.md") | listed_differences("client-differences.md")
    for name, part in report.parts:
        report.errors += [f"{name}: {one} is no listed difference" for one in part.differences if one not in listed]
    return report


def replay_file(path: Path) -> FileReport:
    """Replay a file; one that cannot be read, or at which ours or the harness breaks, is an error of that file."""
    recording = load(path)
    return replay(recording)
