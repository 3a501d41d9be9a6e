"""The commands and their options. What they do is imported when they run, so that `--help` stays light."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepio_cli.options import PanelledCommand, ServerOptions, SourceOptions, VideoFlags, grouped
from deepio_cli.running import run

__all__ = ["app"]

app = typer.Typer(
    help="Streams video to a DEEP core and brings its results back.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # half the time of --help would go into its formatting
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, for programs.")]
Detector = Annotated[
    str, typer.Option(help="Detector of the local core, as module:function; by default it finds what moves.")
]
Seconds = Annotated[float | None, typer.Option(help="End after so many seconds.", min=1)]


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    log_level: Annotated[str, typer.Option(help="What is logged: debug, info, warning or error.")] = "warning",
) -> None:
    """Streams video to a DEEP core and brings its results back."""
    from deepio_cli.settings import find_own_modules, set_up_logging

    if version:
        from importlib.metadata import version as installed

        typer.echo(f"deep-io-py {installed('deep-io-py')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    set_up_logging(log_level)
    find_own_modules()


@app.command()
def demo(
    source: Annotated[
        str, typer.Argument(help="Video: file, URL, camera device or test: pattern.")
    ] = "test:640x360@25",
    seconds: Annotated[float, typer.Option(help="How long, in seconds.", min=1)] = 10.0,
    detector: Detector = "",
    json: Json = False,
) -> None:
    """Show it all on this machine: a local core, a video, results. Fails if no result comes."""
    from deepio_cli.demo import demo as work

    run(work, source, seconds, detector, json)


@app.command(cls=PanelledCommand)
@grouped
def stream(
    server: ServerOptions,
    input: SourceOptions,  # noqa: A002 - a name of its own, beside the source itself
    video: VideoFlags,
    source: Annotated[
        str | None,
        typer.Argument(help="Video: file, URL, camera device or test: pattern. Default: environment, SOURCE_<id>."),
    ] = None,
    id: Annotated[str, typer.Option("--id", help="Our id on the server.", envvar="STREAM_CAPTURE_ID")] = "camera",  # noqa: A002
    type: Annotated[str, typer.Option("--type", help="Our type on the server.")] = "stream_capture",  # noqa: A002
    connect: Annotated[str | None, typer.Option(help="Connect to the peer with this id.")] = None,
    auto: Annotated[
        bool | None,
        typer.Option("--auto/--listen", help="Connect to the first free stream manager, or wait to be called."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Append each result to this file, one JSON a line.", envvar="OUTPUT_FILE")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Describes the source: JSON, or else text.", envvar="STREAM_METADATA")
    ] = None,
    seconds: Seconds = None,
    detector: Detector = "",
    json: Json = False,
) -> None:
    """Stream a video to a DEEP core and tell its results. Without --server a local core is started."""
    video_options, source_arguments = video.options(), input.arguments()

    from deepio_cli.stream import StreamOptions
    from deepio_cli.stream import stream as work

    run(
        work,
        server,
        StreamOptions(
            source=source,
            source_arguments=source_arguments,
            video=video_options,
            peer_id=id,
            peer_type=type,
            connect=connect,
            auto=auto,
            output=output,
            metadata=metadata,
            seconds=seconds,
            detector=detector,
            json=json,
        ),
    )


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.", min=0, max=65535)] = 8000,
    managers: Annotated[int, typer.Option(help="Stream managers: so many cameras at once.", min=1, max=64)] = 1,
    detector: Detector = "",
    key: Annotated[
        str | None, typer.Option(help="Key that peers must give.", envvar="DEEPIO_KEY", show_envvar=True)
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate, for wss://.", exists=True, dir_okay=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file with the private key.", exists=True, dir_okay=False)
    ] = None,
    json: Json = False,
) -> None:
    """Run a local DEEP core until Ctrl-C."""
    from deepio_cli.serve import serve as work

    run(work, host, port, managers, detector, key, tls_cert, tls_key, json)


@app.command(cls=PanelledCommand)
@grouped
def peers(server: ServerOptions, json: Json = False) -> None:
    """List the peers of a server."""
    from deepio_cli.peers import peers as work

    run(work, server, json)


@app.command(cls=PanelledCommand)
@grouped
def watch(
    server: ServerOptions,
    peer: Annotated[str, typer.Argument(help="Id of the peer, as `deepio peers` shows it.")],
    seconds: Seconds = None,
    json: Json = False,
) -> None:
    """Show the results that a peer sends, as a live table or as JSON lines."""
    from deepio_cli.watch import watch as work

    run(work, server, peer, seconds, json)
