"""Which modules a folder has: what there is a file for (a method, a target, a pass) is listed nowhere else."""

import pkgutil
from collections.abc import Iterable
from functools import cache


def modules_in(folders: Iterable[str]) -> tuple[pkgutil.ModuleInfo, ...]:
    """Return the modules in ``folders`` (a package's ``__path__``), none imported; each folder is read once a process.

    A run asks thousands of times.
    """
    return _read(tuple(folders))


@cache
def _read(folders: tuple[str, ...]) -> tuple[pkgutil.ModuleInfo, ...]:
    return tuple(pkgutil.iter_modules(folders))
