"""`edge-agent serve`."""

from pathlib import Path
from typing import Annotated, Any

import typer


def serve(
    ctx: typer.Context,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="0 picks a free port.", min=0, max=65535)] = None,
    ollama_port: Annotated[
        int | None, typer.Option(help="Listen there too; Ollama's is 11434.", min=0, max=65535)
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Log, models and adapters.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name or path of a GGUF.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; unset: as many as pay.", min=1)
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Answers decoded at once.", min=1)] = None,
    context: Annotated[int | None, typer.Option(help="KV cells of all slots.", min=64)] = None,
    cloud_url: Annotated[str | None, typer.Option(help="Base URL of an OpenAI API.")] = None,
    cloud_model: Annotated[str | None, typer.Option(help="Model to ask there.")] = None,
    budget_rate: Annotated[
        float | None, typer.Option(help="Largest share of queries offloaded.", min=0, max=1)
    ] = None,
    budget_calls_per_day: Annotated[
        int | None, typer.Option(help="Most cloud calls a day.", min=0)
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable with the keys clients must send.")
    ] = None,
    reference_cloud: Annotated[
        bool,
        typer.Option(
            "--reference-cloud", help="Where no cloud is configured, start a stand-in for one."
        ),
    ] = False,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error.", metavar="LEVEL")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say where it listens as JSON lines.")
    ] = False,
) -> None:
    """Serve the small model behind OpenAI's API, asking the cloud inside the budget.

    \b
    Example: edge-agent serve
    Example: edge-agent serve --ollama-port 11434
    Example: edge-agent serve --cloud-url https://api.openai.com/v1 --cloud-model gpt-5-mini
    """
    _set_log_level(log_level)
    flags: dict[str, Any] = {
        "data_dir": data_dir,
        "model": model,
        "server.host": host,
        "server.port": port,
        "server.ollama_port": ollama_port,
        "server.api_key_env": api_key_env,
        "engine.threads": threads,
        "engine.slots": slots,
        "engine.context": context,
        "cloud.url": cloud_url,
        "cloud.model": cloud_model,
        "budget.rate": budget_rate,
        "budget.calls_per_day": budget_calls_per_day,
    }
    _serve(ctx.obj, flags, reference_cloud=reference_cloud, as_json=as_json)


def _set_log_level(level: str | None) -> None:
    import logging

    if level is None:
        return
    if level.lower() not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter(f"{level!r} is not debug, info, warning or error")
    logging.getLogger().setLevel(level.upper())


def _serve(root: Any, flags: dict[str, Any], *, reference_cloud: bool, as_json: bool) -> None:
    import contextlib
    import os
    import time

    from server import daemon, stand_in
    from server.daemon import Announcer
    from server.listen import api_keys, bind, url_of

    settings = root.load(flags).settings
    keys = api_keys(settings.server)
    other = daemon.other_daemon(settings.data_dir)
    if other is not None:
        typer.echo(
            f"warning: a daemon already serves {settings.data_dir} at {other.url} (process "
            f"{other.pid}); both share the log and the budget, and the other commands talk to it",
            err=True,
        )
    with contextlib.ExitStack() as stack:
        server = settings.server
        listener = stack.enter_context(bind(server.host, server.port))
        listeners = [listener]
        if server.ollama_port is not None:
            second = bind(server.host, server.ollama_port, flag="--ollama-port", known="Ollama")
            listeners.append(stack.enter_context(second))
        needs_cloud = reference_cloud and settings.cloud.url is None
        if needs_cloud:
            flags |= stack.enter_context(stand_in.reference_cloud())
            settings = root.load(flags).settings
        announcer = Announcer(
            settings=settings,
            url=url_of(listener),
            ollama_url=url_of(listeners[1]) if listeners[1:] else None,
            pid=os.getpid(),
            as_json=as_json,
            stand_in=needs_cloud,
            asked_budget={
                key.removeprefix("budget."): value
                for key, value in flags.items()
                if key.startswith("budget.") and value is not None
            },
        )
        announcer.listening()
        started = time.monotonic()
        daemon.serve(
            settings,
            listeners,
            keys=keys,
            other=other,
            on_ready=lambda agent: announcer.ready(agent, time.monotonic() - started),
        )
