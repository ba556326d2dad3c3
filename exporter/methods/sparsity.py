"""Which weights become 0: a share of all, or n of m neighbours; what the sparse methods have in common.

The share is of a whole matrix, a row or a block, depending on which weights the method compares; a fraction is rounded
down, so that something always stays. An n:m pattern keeps at most n of each m consecutive columns of a row (2:4 is what
NVIDIA's sparse tensor cores take: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.methods.nearest_plane import cholesky_factor, compensate, in_order, start_codes, visiting_order
from edgepress.exporter.methods.options import Option, Options

UNSTRUCTURED = "unstructured"
OPTIONS: Mapping[str, Option] = {
    "sparsity": Option(0.5, least=0, below=1),
    "pattern": Option(UNSTRUCTURED),
    "damping": Option(0.01, least=0, most=100),
    "act_order": Option(True),
}
_GROUPS = (2, 4, 8, 16)  # columns are chosen from 16 at a time, and no group may cross these
_ROUNDING = 1e-9  # 0.29 · 100 is 28.999999999999996


@dataclass(frozen=True)
class Sparsity:
    """``share`` of the weights is 0. In a pattern ``kept`` of each ``group`` consecutive columns stay; else both are 1.

    As a string, as plans print it: ``50% zeros`` or ``2:4 zeros``, and empty when no weight is to be 0.
    """

    share: float
    kept: int = 1
    group: int = 1

    def __str__(self) -> str:
        """See the class."""
        if not self.share:
            return ""
        return f"{f'{self.kept}:{self.group}' if self.group > 1 else f'{100 * self.share:.4g}%'} zeros"

    def keeps(self, scores: Tensor) -> Tensor:
        """Which candidates of each set, or of its groups, stay: the largest ``scores`` ≥ 0, (sets, candidates); bool.

        Groups are consecutive candidates; the last one may have fewer.

        Raises:
            InputError: a score is NaN or infinite.

        """
        if not bool(torch.isfinite(scores).all()):
            raise InputError("NaN or infinite weights cannot be compared to find those that become 0")
        sets, candidates = scores.shape
        if self.group == 1:
            return largest(scores, candidates - int(self.share * candidates + _ROUNDING))
        padded = functional.pad(scores, (0, -candidates % self.group), value=-1.0).reshape(-1, self.group)
        return largest(padded, self.kept).reshape(sets, -1)[:, :candidates]


def largest(scores: Tensor, count: int) -> Tensor:
    """Where the ``count`` largest of each row are, the first ones of equals; bool, as ``scores``."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = scores.kthvalue(scores.shape[1] - count + 1, dim=1, keepdim=True).values  # the smallest that stays
    above, equal = scores > least, scores == least
    return above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True)))


def keep_largest(weight: Tensor, sparsity: Sparsity) -> Tensor:
    """Which weights of a matrix stay by their size alone, bool, as ``weight``."""
    size = weight.abs()
    return sparsity.keeps(size if sparsity.group > 1 else size.reshape(1, -1)).reshape(weight.shape)


def read_sparsity(method: str, options: Options) -> Sparsity:
    """What the options ``sparsity`` and ``pattern`` of a method ask for.

    Raises:
        InputError: the share leaves nothing or is below 0, the pattern is none or says another share, or ``then`` is no
            method that can keep zeros.

    """
    share, pattern, where = float(options["sparsity"]), str(options["pattern"]), f"[options.{method}]"
    then = str(options.get("then", "gptq"))
    if then != "gptq" and not isinstance(load_method(then), Method):
        raise InputError(f'{where} then = {then!r}: it must be "gptq", or a method that rounds rows, such as "rtn"')
    if pattern == UNSTRUCTURED:
        return Sparsity(share)
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{1,2})", pattern)
    kept, group = map(int, found.groups()) if found else (0, 0)
    if group not in _GROUPS or not 0 < kept < group:
        raise InputError(
            f'{where} pattern is {pattern!r}; it must be "{UNSTRUCTURED}", or n:m, such as "2:4", with n from 1 to '
            f"below m, and m one of {', '.join(map(str, _GROUPS))}"
        )
    if abs(share - (1 - kept / group)) > _ROUNDING:
        raise InputError(
            f"{where} pattern {pattern} keeps {kept} of {group} weights, and sparsity is {share:g}; set sparsity = "
            f"{1 - kept / group:g}, or another pattern"
        )
    return Sparsity(share, kept, group)


def round_kept(weight: Tensor, kept: Tensor, scheme: Scheme, moments: Moments, options: Options) -> Codes:
    """Round ``weight`` where it is ``kept``, bool (rows, columns), and make the rest 0, by the method ``then``.

    Scales are searched on what stays. A method that rounds rows leaves zeros as they are; GPTQ starts from the weights
    before any became 0, so that the columns that are left are corrected for the zeros too.

    Raises:
        InputError: the Hessian is singular.

    """
    then = str(options["then"])
    start = start_codes(weight * kept, scheme, moments, "rtn" if then == "gptq" else then)
    if then != "gptq":
        return start
    order = visiting_order(moments.mean_square, act_order=bool(options["act_order"]))
    factor = cholesky_factor(in_order(moments.second, order), float(options["damping"]))
    mask = kept.T[order]  # (columns, rows)
    return compensate(weight, start, factor, order, lambda some, *_: mask[some])
