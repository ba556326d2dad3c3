"""One client at a time: a lock on the device, which ends with whoever holds it.

The lock is a symbolic link whose target says who holds it: made in one step, or not at all. Its holder is a shell that
waits for the end of its standard input, so it goes when the link does; one that was killed is known by its number.
"""

import getpass
import os
import platform
import shlex
import subprocess
import threading
from contextlib import suppress

from edgepress.runtime.machine.devices.common.errors import DeviceInUse, DeviceUnusable
from edgepress.runtime.machine.devices.common.link import ANSWER, Link

_MARK = "edgepress-lock"  # in the holder's command line, by which a number that was given anew is told from it
_TAKEN, _HELD, _FOREIGN = "taken", "held", "foreign"
OURS = "edgepress-device"  # a file that says that the folder is ours
_LEFTOVERS = ("jobs", "scratch", "probe", "unpacked/*.part")  # of clients that were cut off: whoever holds it has none
_LEAVE = 10.0  # seconds that the holder has to remove the lock


class Lock:
    """Holds a device from when it is made until :meth:`release`."""

    def __init__(self, link: Link) -> None:
        """Take it.

        Raises:
            DeviceInUse: another client has it; says who, and since when.
            DeviceUnusable: where our folder would be there is one of somebody else's.

        """
        self._link = link
        base = shlex.quote(link.base)
        leftovers = " ".join(f"{base}/{name}" for name in _LEFTOVERS)
        script = f"""
: {_MARK}
mkdir -p {base} || exit 1
if [ ! -f {base}/{OURS} ]; then
  for one in {base}/* {base}/.[!.]*; do [ ! -e "$one" ] || {{ echo {_FOREIGN}; exit 0; }}; done
fi
: > {base}/{OURS} || exit 1
now=$(date +%s)
mine="$$ $now {_owner()}"
if ! ln -s "$mine" {base}/lock 2>/dev/null; then
  held=$(readlink {base}/lock)
  set -- $held
  if grep -q {_MARK} /proc/"$1"/cmdline 2>/dev/null; then echo "{_HELD} $((now - $2)) $3"; exit 0; fi
  rm -f {base}/lock
  ln -s "$mine" {base}/lock || exit 1
fi
rm -rf {leftovers}
echo {_TAKEN}
cat > /dev/null
[ "$(readlink {base}/lock)" = "$mine" ] && rm -f {base}/lock
exit 0
"""
        self._holder = subprocess.Popen(
            link.command(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        late = threading.Timer(ANSWER, self._holder.kill)
        late.start()
        said = self._holder.stdout.readline().decode("utf-8", "replace").split()
        late.cancel()
        if said[:1] == [_TAKEN]:
            return
        _, errors = self._holder.communicate()
        if said[:1] == [_HELD]:
            age, owner = [*said[1:], "?", "?"][:2]
            raise DeviceInUse(
                f"{link.name} is in use by {owner}, for {age} s: two clients would measure each other; wait for it"
            )
        if said[:1] == [_FOREIGN]:
            raise DeviceUnusable(
                f"{link.base} on {link.name} has files and is not edgepress's ({OURS} is missing); move it away"
            )
        words = errors.decode("utf-8", "replace")
        raise link.lost(words) if self._holder.returncode != 1 or link.explain(words) else link.failed("locking", words)

    @property
    def is_held(self) -> bool:
        """Whether the link to the holder, and so the lock, still is there."""
        return self._holder.poll() is None

    def release(self) -> None:
        """Give the device back."""
        with suppress(subprocess.TimeoutExpired, OSError):
            self._holder.communicate(timeout=_LEAVE)
        if self._holder.poll() is None:
            self._holder.kill()
            self._holder.wait()


def _owner() -> str:
    """Who asks, as one word for a shell: user, machine and process."""
    with suppress(OSError, KeyError, ImportError):
        return shlex.quote(f"{getpass.getuser()}@{platform.node()}:{os.getpid()}".replace(" ", "_"))
    return f"process:{os.getpid()}"
