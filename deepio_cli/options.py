"""The options that commands take in groups: each group is a dataclass, and a panel of its own in `--help`.

@app.command(cls=PanelledCommand)
@grouped
def peers(server: ServerOptions, json: Json = False) -> None: ...
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from typer.core import TyperCommand

from deepio_core.errors import DeepIOError

if TYPE_CHECKING:
    from deepio_core.media.options import VideoOptions

__all__ = ["PanelledCommand", "ServerOptions", "SourceOptions", "VideoFlags", "grouped"]

_SERVER = "Server"
_SOURCE = "Source"
_VIDEO = "Video"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The server, and how it is trusted."""

    server: Annotated[
        str | None,
        typer.Option(
            help="Server: host, host:port or ws(s):// URL; without a scheme it is wss.",
            envvar="HP_SERVER",
            rich_help_panel=_SERVER,
        ),
    ] = None
    port: Annotated[
        int | None, typer.Option(help="Port of the server.", envvar="SERVER_PORT", rich_help_panel=_SERVER)
    ] = None
    key: Annotated[
        str | None,
        typer.Option(help="Key for the server.", envvar="DEEPIO_KEY", show_envvar=True, rich_help_panel=_SERVER),
    ] = field(default=None, repr=False)
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            help="PEM file of the authority to trust.", envvar="DEEPIO_TLS_CA", dir_okay=False, rich_help_panel=_SERVER
        ),
    ] = None
    tls_fingerprint: Annotated[
        str | None,
        typer.Option(
            help="SHA-256 of the server's certificate, to trust it alone.",
            envvar="DEEPIO_TLS_FINGERPRINT",
            rich_help_panel=_SERVER,
        ),
    ] = None
    tls_insecure: Annotated[
        bool,
        typer.Option(
            "--tls-insecure",
            help="Do not check the certificate.",
            envvar="DEEPIO_TLS_INSECURE",
            rich_help_panel=_SERVER,
        ),
    ] = False
    allow_plain: Annotated[
        bool,
        typer.Option(
            "--allow-plain",
            help="Allow ws:// to another machine.",
            envvar="DEEPIO_ALLOW_PLAIN",
            rich_help_panel=_SERVER,
        ),
    ] = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `DeepIO`."""
        return {
            "server_address": self.server,
            "server_port": self.port,
            "key": self.key,
            "tls_ca": self.tls_ca,
            "tls_fingerprint": self.tls_fingerprint,
            "tls_insecure": self.tls_insecure or None,
            "allow_plain": self.allow_plain or None,
        }

    def trust(self) -> dict[str, Any]:
        """Keyword arguments for `list_peers`."""
        from deepio_adapters.tls import TLSOptions

        tls = TLSOptions.from_environment(
            os.environ,
            ca_file=self.tls_ca,
            fingerprint=self.tls_fingerprint,
            insecure=self.tls_insecure or None,
        )
        return {"tls": tls, "allow_plain": self.allow_plain or None}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How the source is opened."""

    format: Annotated[
        str | None, typer.Option(help="FFmpeg's name of the source's format, as in v4l2.", rich_help_panel=_SOURCE)
    ] = None
    loop: Annotated[bool, typer.Option("--loop", help="Start a file again at its end.", rich_help_panel=_SOURCE)] = (
        False
    )
    source_option: Annotated[
        list[str],
        typer.Option(
            "--source-option",
            "-o",
            metavar="KEY=VALUE",
            help="FFmpeg's option for the source, as in rtsp_transport=udp or video_size=1280x720; may be repeated.",
            rich_help_panel=_SOURCE,
        ),
    ] = field(default_factory=list[str])

    audio: Annotated[
        bool, typer.Option("--audio", help="Send the sound of the source too.", rich_help_panel=_SOURCE)
    ] = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `DeepIO`.

        Raises:
            BadParameter: An option is no KEY=VALUE.
        """
        pairs = [option.partition("=") for option in self.source_option]
        for key, equals, _ in pairs:
            if not key or not equals:
                raise typer.BadParameter(
                    f"{key or '='!r} is no KEY=VALUE, as in rtsp_transport=udp.", param_hint="--source-option"
                )
        options = {key.strip(): value for key, _, value in pairs}
        return {"format": self.format, "loop": self.loop, "source_options": options or None, "audio": self.audio}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFlags:
    """How video is sent."""

    video: Annotated[
        Literal["auto", "copy", "encode"],
        typer.Option(
            help="Copy the source's packets if the remote peer can take them, always, or never.",
            rich_help_panel=_VIDEO,
        ),
    ] = "auto"
    codec: Annotated[
        Literal["H264", "VP8"] | None,
        typer.Option(help="Codec to encode with.", case_sensitive=False, rich_help_panel=_VIDEO),
    ] = None
    bitrate: Annotated[
        str | None,
        typer.Option(
            metavar="BITS",
            help="Bits per second to begin to encode with, as in 800k or 2M. It follows what the network carries.",
            rich_help_panel=_VIDEO,
        ),
    ] = None
    max_bitrate: Annotated[
        str | None,
        typer.Option(
            metavar="BITS", help="Bits per second to encode with at most.  [default: 4M]", rich_help_panel=_VIDEO
        ),
    ] = None
    max_size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Scale larger pictures down to fit, as in 1280x720.", rich_help_panel=_VIDEO),
    ] = None
    max_fps: Annotated[
        float | None, typer.Option(help="Encode at most so many frames per second.", rich_help_panel=_VIDEO)
    ] = None
    keyframe_interval: Annotated[
        float | None, typer.Option(help="Seconds between keyframes when encoding.", rich_help_panel=_VIDEO)
    ] = None
    while_away: Annotated[
        Literal["last", "nothing"],
        typer.Option(
            help="What to send while a live source is being connected to again: its last picture, or nothing.",
            rich_help_panel=_VIDEO,
        ),
    ] = "nothing"

    def options(self) -> VideoOptions:
        """The settings for `DeepIO`.

        Raises:
            BadParameter: One of them is not possible.
        """
        from deepio_core.media.options import VideoOptions

        given: dict[str, Any] = {"mode": self.video, "codec": self.codec, "while_away": self.while_away}
        if self.bitrate is not None:
            bitrate = given["bitrate"] = _bits(self.bitrate, "--bitrate")
            # A bitrate that is asked for must be possible; the bounds give way.
            given["min_bitrate"] = min(bitrate, VideoOptions().min_bitrate)
            given["max_bitrate"] = max(bitrate, VideoOptions().max_bitrate)
        if self.max_bitrate is not None:
            # So must a bound that is asked for; what begins above it begins at it.
            bound = given["max_bitrate"] = _bits(self.max_bitrate, "--max-bitrate")
            for name in ("bitrate", "min_bitrate"):
                given[name] = min(bound, given.get(name, getattr(VideoOptions(), name)))
        if self.max_size is not None:
            given["max_size"] = _size(self.max_size)
        if self.max_fps is not None:
            given["max_frame_rate"] = self.max_fps
        if self.keyframe_interval is not None:
            given["keyframe_interval"] = self.keyframe_interval
        try:
            return VideoOptions(**given)
        except DeepIOError as error:
            raise typer.BadParameter(str(error)) from None


def _bits(text: str, option: str) -> int:
    number = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([kM]?)", text.strip())
    if number is None:
        raise typer.BadParameter(f"{text!r} is no bitrate, as 800k or 2M are.", param_hint=option)
    return round(float(number[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[number[2]])


def _size(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    if sides is None:
        raise typer.BadParameter(f"{text!r} is no size, as 1280x720 is.", param_hint="--max-size")
    return int(sides[1]), int(sides[2])


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of its parameters that are groups; it is called with the groups."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, list[str]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            own = get_type_hints(kind, include_extras=True)
            groups[name] = [one.name for one in dataclasses.fields(kind)]
            for one in dataclasses.fields(kind):
                factory: Any = one.default_factory
                default = one.default if factory is dataclasses.MISSING else factory()
                parameters.append(
                    inspect.Parameter(
                        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=own[one.name]
                    )
                )
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind))

    @functools.wraps(function)
    def command(**given: Any) -> None:
        for name, fields in groups.items():
            given[name] = hints[name](**{one: given.pop(one) for one in fields})
        function(**given)

    # What Typer makes options of.
    told: Any = command
    told.__signature__ = inspect.Signature(parameters)
    told.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del told.__wrapped__
    return command


class PanelledCommand(TyperCommand):
    """A command whose `--help` shows its options by panel, without the formatting of Rich, which takes its time."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each panel under its title."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if param.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(param, "rich_help_panel", None) or kind, []).append(record)
        for title, records in panels.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
