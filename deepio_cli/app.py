"""The commands and their options. What they do is imported when they run, so that `--help` stays light."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepio_cli.running import run
from deepio_cli.settings import ServerOptions

__all__ = ["app"]

app = typer.Typer(
    help="Streams video to a DEEP core and brings its results back.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # half the time of --help would go into its formatting
    context_settings={"help_option_names": ["-h", "--help"]},
)

Server = Annotated[
    str | None,
    typer.Option(help="Server: host, host:port or ws(s):// URL; without a scheme it is wss.", envvar="HP_SERVER"),
]
Port = Annotated[int | None, typer.Option(help="Port of the server.", envvar="SERVER_PORT")]
Key = Annotated[str | None, typer.Option(help="Key for the server.", envvar="DEEPIO_KEY", show_envvar=True)]
TlsCa = Annotated[
    Path | None, typer.Option(help="PEM file of the authority to trust.", envvar="DEEPIO_TLS_CA", dir_okay=False)
]
TlsFingerprint = Annotated[
    str | None,
    typer.Option(help="SHA-256 of the server's certificate, to trust it alone.", envvar="DEEPIO_TLS_FINGERPRINT"),
]
TlsInsecure = Annotated[
    bool, typer.Option("--tls-insecure", help="Do not check the certificate.", envvar="DEEPIO_TLS_INSECURE")
]
AllowPlain = Annotated[
    bool, typer.Option("--allow-plain", help="Allow ws:// to another machine.", envvar="DEEPIO_ALLOW_PLAIN")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, for programs.")]
Detector = Annotated[
    str, typer.Option(help="Detector of the local core, as module:function; by default it finds what moves.")
]
Loop = Annotated[bool, typer.Option("--loop", help="Start a file again at its end.")]
Format = Annotated[str | None, typer.Option(help="FFmpeg's name of the source's format, as in v4l2.")]


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


@app.command()
def stream(
    source: Annotated[
        str | None,
        typer.Argument(help="Video: file, URL, camera device or test: pattern. Default: environment, SOURCE_<id>."),
    ] = None,
    server: Server = None,
    port: Port = None,
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
    format: Format = None,  # noqa: A002
    loop: Loop = False,
    seconds: Annotated[float | None, typer.Option(help="End after so many seconds.", min=1)] = None,
    key: Key = None,
    tls_ca: TlsCa = None,
    tls_fingerprint: TlsFingerprint = None,
    tls_insecure: TlsInsecure = False,
    allow_plain: AllowPlain = False,
    detector: Detector = "",
    json: Json = False,
) -> None:
    """Stream a video to a DEEP core and tell its results. Without --server a local core is started."""
    from deepio_cli.stream import StreamOptions
    from deepio_cli.stream import stream as work

    options = ServerOptions(
        server=server,
        port=port,
        key=key,
        tls_ca=tls_ca,
        tls_fingerprint=tls_fingerprint,
        tls_insecure=tls_insecure,
        allow_plain=allow_plain,
    )
    run(
        work,
        options,
        StreamOptions(
            source=source,
            peer_id=id,
            peer_type=type,
            connect=connect,
            auto=auto,
            output=output,
            metadata=metadata,
            format=format,
            loop=loop,
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


@app.command()
def peers(
    server: Server = None,
    port: Port = None,
    key: Key = None,
    tls_ca: TlsCa = None,
    tls_fingerprint: TlsFingerprint = None,
    tls_insecure: TlsInsecure = False,
    allow_plain: AllowPlain = False,
    json: Json = False,
) -> None:
    """List the peers of a server."""
    from deepio_cli.peers import peers as work

    options = ServerOptions(
        server=server,
        port=port,
        key=key,
        tls_ca=tls_ca,
        tls_fingerprint=tls_fingerprint,
        tls_insecure=tls_insecure,
        allow_plain=allow_plain,
    )
    run(work, options, json)


@app.command()
def watch(
    peer: Annotated[str, typer.Argument(help="Id of the peer, as `deepio peers` shows it.")],
    server: Server = None,
    port: Port = None,
    key: Key = None,
    tls_ca: TlsCa = None,
    tls_fingerprint: TlsFingerprint = None,
    tls_insecure: TlsInsecure = False,
    allow_plain: AllowPlain = False,
    seconds: Annotated[float | None, typer.Option(help="End after so many seconds.", min=1)] = None,
    json: Json = False,
) -> None:
    """Show the results that a peer sends, as a live table or as JSON lines."""
    from deepio_cli.watch import watch as work

    options = ServerOptions(
        server=server,
        port=port,
        key=key,
        tls_ca=tls_ca,
        tls_fingerprint=tls_fingerprint,
        tls_insecure=tls_insecure,
        allow_plain=allow_plain,
    )
    run(work, options, peer, seconds, json)
