"""`edge-agent service`: the daemon as a service of the user's, under systemd or launchd.

https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html
https://developer.apple.com/library/archive/documentation/MacOSX/Conceptual/BPSystemStartup
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.cli.options import AsJson

if TYPE_CHECKING:
    from edge_agent.config.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Run the daemon as a service that starts at login.")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Log, models and adapters.")]
UNIT = "edge-agent.service"
LABEL = "edge-agent"
"""launchd's name of the job."""
_STOP_MARGIN_S = 15
"""Beyond `server.shutdown_s`: the daemon flushes its log."""

# Left out on purpose: MemoryDenyWriteExecute (the trainer compiles kernels), PrivateDevices (it
# would hide a GPU), RestrictNamespaces (the trainer's sandbox makes a namespace of its own),
# ProtectProc (a reservation of a process that cannot be seen would be taken for a dead one's).
_SANDBOX = """\
PrivateUsers=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={data_dir}
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
CapabilityBoundingSet=
"""
"""What needs namespaces, which some kernels deny to users."""
_UNIT = r"""[Unit]
Description=edge-agent, a local model that asks the cloud inside a budget
After=network-online.target

[Service]
Type=exec
ExecStart={command}
# Keys and other variables of the daemon, one NAME=VALUE a line; the file need not exist.
EnvironmentFile=-{environment}
Restart=on-failure
RestartSec=5
TimeoutStopSec={stop_s:g}
KillMode=mixed
# A trainer that is killed for its memory does not take the daemon along.
OOMPolicy=continue
MemoryMax={memory}
TasksMax=512
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
# The last four: for the trainer's own sandbox of programs that it grades.
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule \
    landlock_restrict_self seccomp
SystemCallErrorNumber=EPERM
{sandbox}
[Install]
WantedBy=default.target
"""


@dataclass(frozen=True)
class Service:
    """A service as one file, and what loads and unloads it."""

    file: Path
    text: str
    load: tuple[tuple[str, ...], ...]
    unload: tuple[tuple[str, ...], ...]


def systemd_unit(
    command: Sequence[str], settings: "Settings", environment: Path, memory: str, *, sandbox: bool
) -> str:
    """The unit's text. `memory`: what systemd takes as MemoryMax, e.g. "75%" or "6G"."""
    data_dir = _quoted(str(settings.data_dir))
    return _UNIT.format(
        command=" ".join(_quoted(word).replace("$", "$$") for word in command),
        environment=_escaped(str(environment)),
        stop_s=settings.server.shutdown_s + _STOP_MARGIN_S,
        memory=memory,
        sandbox=_SANDBOX.format(data_dir=data_dir) if sandbox else "",
    )


def launchd_plist(command: Sequence[str], settings: "Settings", log: Path) -> str:
    """The property list's text."""
    import plistlib

    job = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": int(settings.server.shutdown_s + _STOP_MARGIN_S),
        "ProcessType": "Interactive",
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
        "Umask": 0o077,
    }
    return plistlib.dumps(job, sort_keys=False).decode()


def _escaped(word: str) -> str:
    """A path without systemd's specifiers."""
    return word.replace("%", "%%")


def _quoted(word: str) -> str:
    """One word of a unit's line."""
    escaped = _escaped(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if set(escaped) & set(" \t'\\;") or not escaped else escaped


@app.command()
def install(
    ctx: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the file and what would be run; do nothing.")
    ] = False,
    memory: Annotated[
        str, typer.Option(help="Most memory of daemon and trainer together (systemd).")
    ] = "75%",
    sandbox: Annotated[
        bool, typer.Option(help="Without: for kernels that deny users their own namespaces.")
    ] = True,
    manager: Annotated[
        str | None, typer.Option(help="systemd or launchd; none: what this system has.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Install the daemon as a service of yours, and start it.

    systemd runs it hardened: it can write to its data directory alone. Variables of this shell do
    not reach a service: keys go into the keyring, or into the file "environment" beside the
    configuration.

    \b
    Example: edge-agent service install --dry-run
    Example: edge-agent service install --memory 6G
    """
    from edge_agent.client.daemon import find_daemon
    from edge_agent.errors import EdgeAgentError
    from models.storage import private_dir, write_atomically

    settings = ctx.obj.load({"data_dir": data_dir}).settings
    service = _service(ctx, manager, data_dir, memory, sandbox=sandbox)
    if dry_run:
        typer.echo(service.text, nl=False)
        typer.echo(f"# would be written to {service.file}, then:", err=True)
        for command in service.load:
            typer.echo(f"#   {shlex.join(command)}", err=True)
        return
    running = find_daemon(settings.data_dir)
    if running is not None and not service.file.exists():
        raise EdgeAgentError(
            f"a daemon already serves {settings.data_dir} (process {running.pid}); end it first"
        )
    private_dir(settings.data_dir)
    service.file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(service.file, service.text)
    for command in service.load:
        _run(command)
    typer.echo(f"Installed {service.file}; see: edge-agent service status")
    unseen = sorted(name for name in os.environ if name.startswith("EDGE_AGENT_"))
    if unseen:
        typer.echo(
            f"warning: the service does not see {', '.join(unseen)} of this shell; see "
            "'edge-agent service install --help'",
            err=True,
        )


@app.command()
def uninstall(
    ctx: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run; do nothing.")
    ] = False,
    manager: Annotated[
        str | None, typer.Option(help="systemd or launchd; none: what this system has.")
    ] = None,
) -> None:
    """Stop the service and remove it. The data directory stays.

    \b
    Example: edge-agent service uninstall
    """
    from edge_agent.errors import NotFound

    service = _service(ctx, manager)
    if dry_run:
        for command in service.unload:
            typer.echo(shlex.join(command))
        typer.echo(f"rm {shlex.quote(str(service.file))}")
        return
    if not service.file.exists():
        raise NotFound(f"no service is installed: {service.file} does not exist")
    stop, *rest = service.unload
    _run(stop)
    service.file.unlink()
    for command in rest:
        _run(command)
    typer.echo(f"Removed {service.file}; the data directory stays")


@app.command()
def status(
    ctx: typer.Context,
    as_json: AsJson = False,
    manager: Annotated[
        str | None, typer.Option(help="systemd or launchd; none: what this system has.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Show whether the service is installed and runs. Exits with status 3 if it does not.

    \b
    Example: edge-agent service status --json | jq .state
    """
    from edge_agent.client.daemon import find_daemon

    settings = ctx.obj.load({"data_dir": data_dir}).settings
    manager, service = _manager(manager), _service(ctx, manager)
    daemon = find_daemon(settings.data_dir)
    found: dict[str, Any] = {
        "manager": manager,
        "file": str(service.file),
        "installed": service.file.exists(),
        "state": _state(manager) if service.file.exists() else "absent",
        "url": None if daemon is None else daemon.url,
        "pid": None if daemon is None else daemon.pid,
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(f"{found['file']}: {found['state']}")
        where = "no daemon answers" if daemon is None else f"{daemon.url}, process {daemon.pid}"
        typer.echo(f"{settings.data_dir}: {where}")
    if found["state"] != "active":
        raise typer.Exit(3)


def _manager(wanted: str | None) -> str:
    known = ("systemd", "launchd")
    manager = wanted or ("launchd" if sys.platform == "darwin" else "systemd")
    if manager not in known:
        raise typer.BadParameter(f"{manager!r} is neither systemd nor launchd")
    return manager


def _service(
    ctx: typer.Context,
    manager: str | None,
    data_dir: Path | None = None,
    memory: str = "75%",
    *,
    sandbox: bool = True,
) -> Service:
    from edge_agent.config.loading import config_file

    settings = ctx.obj.load({"data_dir": data_dir}).settings
    config = (ctx.obj.config_file or config_file()).absolute()
    command = [sys.executable, "-m", "edge_agent", "--config", str(config)]
    # A configuration that does not exist yet is read once it does, from the usual place.
    command = command if config.is_file() else command[:3]
    command += ["serve", "--data-dir", str(settings.data_dir.absolute())]
    if _manager(manager) == "launchd":
        file = Path.home() / "Library/LaunchAgents" / f"{LABEL}.plist"
        text = launchd_plist(command, settings, Path.home() / "Library/Logs/edge-agent.log")
        domain = f"gui/{os.getuid()}"
        return Service(
            file,
            text,
            load=(("launchctl", "bootstrap", domain, str(file)),),
            unload=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        )
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    systemctl = ("systemctl", "--user")
    return Service(
        home / "systemd/user" / UNIT,
        systemd_unit(command, settings, config.parent / "environment", memory, sandbox=sandbox),
        load=(
            (*systemctl, "daemon-reload"),
            (*systemctl, "enable", UNIT),
            (*systemctl, "restart", UNIT),
        ),
        unload=((*systemctl, "disable", "--now", UNIT), (*systemctl, "daemon-reload")),
    )


def _run(command: Sequence[str]) -> str:
    """What the command prints. Raises EdgeAgentError with what it says of its failure."""
    from edge_agent.errors import EdgeAgentError, NotFound

    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotFound(f"{command[0]} is not installed: this system has another manager") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise EdgeAgentError(f"{shlex.join(command)}: {said}")
    return done.stdout


def _state(manager: str) -> str:
    """active, inactive, failed, …, in systemd's words for both; unknown if the manager fails."""
    from edge_agent.errors import EdgeAgentError

    try:
        if manager == "systemd":
            command = ("systemctl", "--user", "show", UNIT, "--property=ActiveState", "--value")
            return _run(command).strip() or "unknown"
        said = _run(("launchctl", "print", f"gui/{os.getuid()}/{LABEL}"))
    except EdgeAgentError:
        return "unknown"
    return "active" if "state = running" in said else "inactive"
