"""Emulated processors (``targets/emulator``): the same functions, of which times mean nothing."""

import re
from collections.abc import Sequence

from edgepress.calls import Answer, Call
from edgepress.calls.host import Report
from edgepress.errors import InputError
from edgepress.runtime.machine.devices.common.here import runner as runner_facts
from edgepress.runtime.machine.devices.common.in_place import InPlace
from edgepress.runtime.machine.devices.common.protocol import Found, Transport
from edgepress.runtime.machine.devices.describing import linux
from edgepress.runtime.machine.devices.describing.description import Description
from edgepress.targets.emulator import CPUS, find, run
from edgepress.targets.emulator.machine import check_cpu, is_x86_cpu, versions_on

_DEFAULT = "cortex-a76"
_NOTE = "emulated: numbers are a real processor's, times are not; `edgepress emulator run` counts instructions"


class Emulated(InPlace):
    """An emulated processor, which sees this machine's files."""

    def __init__(self, cpu: str) -> None:
        super().__init__(f"emulator:{cpu}")
        self._cpu = cpu
        self._installation = find()
        check_cpu(self._installation, cpu)

    def describe(self, *, runner: bool = False) -> Description:
        """Processor, features and versions; memory, clocks and temperatures would be this machine's."""
        model, is_x86 = CPUS.get(self._cpu), is_x86_cpu(self._installation, self._cpu)
        found = Description(
            device=self.name,
            architecture="x86_64" if is_x86 else "aarch64",
            model=model,
            versions=versions_on(self._installation, self._cpu),
            emulated=True,
            notes=(_NOTE,),
        )
        if not runner:
            return found
        [(told, _)] = self.call([Call(runner_facts)])
        seen = {} if is_x86 else {"proc/cpuinfo": told["cpuinfo"]}  # on x86-64 it is this machine's
        described = linux.describe(self.name, seen)
        return Description(
            **{**vars(found), "features": described.features, "providers": tuple(told["providers"])},
        )

    def call(
        self, calls: Sequence[Call], *, report: Report | None = None, timeout: float | None = None
    ) -> list[Answer]:
        """Call functions in a fresh process on the emulated processor."""
        return run(self._installation, self._cpu, calls, report=report, timeout=timeout)


def _find() -> list[Found]:
    try:
        find()
    except InputError as error:
        return [Found("emulator:CPU", "emulated processors", re.sub(r"\s+", " ", str(error)))]
    return [Found(f"emulator:{name}", about, ask=False) for name, about in CPUS.items()]


TRANSPORT = Transport(
    "emulator", "emulator:CPU", "an emulated processor", lambda address: Emulated(address or _DEFAULT), _find
)
