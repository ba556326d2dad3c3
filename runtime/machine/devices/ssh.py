"""Boards and servers by the system's own OpenSSH client, with the user's config, keys and agent.

One connection is shared by all that is asked (``ControlMaster``), so a device is logged in to once.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from edgepress.errors import EdgepressError, InputError
from edgepress.runtime.machine.devices.common.errors import (
    AccessDenied,
    ClientMissing,
    DeviceUnreachable,
    HostKeyChanged,
)
from edgepress.runtime.machine.devices.common.link import ANSWER, Link
from edgepress.runtime.machine.devices.common.linked import Linked
from edgepress.runtime.machine.devices.common.protocol import Device, Found, Transport

_CONFIG = Path("~/.ssh/config")
_OPTIONS = (
    *("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=10", "ServerAliveCountMax=3", "LogLevel=ERROR"),
    *("ControlMaster=auto", "ControlPersist=60", "ForwardX11=no", "ForwardAgent=no", "ClearAllForwardings=yes"),
)


def open_ssh(address: str) -> Device:
    """Connect to a host as ``ssh`` names it: an alias of the config, ``user@host``, ``ssh://user@host:port``."""
    if not address or address.startswith("-") or re.search(r"[\s\0]", address):
        raise InputError(f"{address!r} is no host; give one as ssh takes it: ssh:HOST, ssh:USER@HOST or an alias")
    client = shutil.which("ssh")
    if client is None:
        raise ClientMissing("there is no ssh on this machine; install OpenSSH's client (Debian: openssh-client)")
    sockets = tempfile.TemporaryDirectory(prefix="edgepress-ssh-")
    options = [word for option in (*_OPTIONS, f"ControlPath={sockets.name}/%C") for word in ("-o", option)]
    command = [client, *options]
    name = f"ssh:{address}"

    def explain(errors: str) -> EdgepressError | None:
        return _explain(name, address, errors)

    def close() -> None:
        subprocess.run([*command, "-O", "exit", "--", address], capture_output=True, check=False, timeout=ANSWER)
        sockets.cleanup()

    link = Link(name, lambda script: [*command, "-T", "--", address, _for_any_shell(script)], explain, base="")
    try:
        home = link.ask('echo "${XDG_CACHE_HOME:-$HOME/.cache}/edgepress-device"', what="asking for its home").strip()
    except BaseException:
        close()
        raise
    return Linked(Link(name, link.command, explain, base=home), before_call=lambda: None, close=close)


def _for_any_shell(script: str) -> str:
    """A command that runs a script in ``sh``, whatever the login shell is."""
    return "exec sh -c '" + script.replace("'", "'\\''") + "'"


_WORDS = (
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED",
        HostKeyChanged,
        "another machine answers than the known one, or one that is not known yet; log in once by hand: ssh {address}",
    ),
    (
        r"Permission denied \(|Too many authentication failures|no matching host key|account .* (locked|expired)",
        AccessDenied,
        "it lets nobody in without a question; make `ssh -o BatchMode=yes {address} true` work (a key, an agent)",
    ),
    (
        r"Could not resolve|Connection refused|timed out during banner|Operation timed out|Connection timed out"
        r"|No route to host|Network is unreachable|kex_exchange_identification|Connection closed by .* port",
        DeviceUnreachable,
        "nothing answers there; is it on, and is this its name?",
    ),
    (r"Bad configuration option|Bad owner or permissions", InputError, "ssh's own configuration is refused; mend it"),
)


def _explain(name: str, address: str, errors: str) -> EdgepressError | None:
    for pattern, kind, remedy in _WORDS:
        found = re.search(pattern, errors)
        if found:
            line = [line for line in errors.splitlines() if re.search(pattern, line)][-1]
            return kind(f"{name}: {line.strip()}: {remedy.format(address=address)}")
    return None


def hosts(text: str) -> list[str]:
    """The aliases of an ssh config that name one host each: no patterns, no negations."""
    found = []
    for line in text.splitlines():
        words = line.replace("=", " ").split()
        if words[:1] and words[0].lower() == "host":
            found += [word.strip('"') for word in words[1:] if not set(word) & set("*?!")]
    return list(dict.fromkeys(found))


def _find() -> list[Found]:
    """Hosts of the user's config; none is connected to before it is named."""
    if shutil.which("ssh") is None:
        return [Found("ssh:HOST", why_not="there is no ssh on this machine; install OpenSSH's client")]
    try:
        text = _CONFIG.expanduser().read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):
        text = ""
    found = [Found(f"ssh:{host}", "in ~/.ssh/config; asked when it is named", ask=False) for host in hosts(text)]
    return found or [Found("ssh:HOST", "any host that ssh reaches; asked when it is named", ask=False)]


TRANSPORT = Transport("ssh", "ssh:HOST", "a board or server, by OpenSSH", open_ssh, _find)
