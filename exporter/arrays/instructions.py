"""Functions written as LLVM's instructions, and compiled for this processor in a tenth of a second.

What writes a kernel is a Python function that is called once, with numbers and arrays that stand for those of the
compiled function. Operators on them are single instructions, in the order in which Python comes to them; nothing is
contracted or reordered. Numbers may be vectors, whose lanes are computed beside each other. Python's own ``if`` and
``for`` decide what is written; loops of the compiled function are :meth:`Writer.each`, what they change is a
:class:`Variable`.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import binding, ir

_INDEX = ir.IntType(64)
_OF_FLOATS = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}
_OF_INTEGERS = {"+": "add", "-": "sub", "*": "mul", "//": "udiv", "<<": "shl", ">>": "lshr", "&": "and_", "|": "or_"}


class Number:
    """A number of the compiled function, or a vector of them: float32, an unsigned integer, or a truth (one bit)."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self._builder = builder
        self.value = value

    @property
    def lanes(self) -> int | None:
        """How many numbers it is; None for one that is no vector."""
        return self.value.type.count if isinstance(self.value.type, ir.VectorType) else None

    @property
    def element(self) -> ir.Type:
        """The type of a lane."""
        return self.value.type.element if self.lanes else self.value.type

    def like(self, number: "Number | float") -> "Number":
        """A Python number as a constant of this one's type."""
        if isinstance(number, Number):
            return number
        return self._new(ir.Constant(self.value.type, [number] * self.lanes if self.lanes else number))

    def __add__(self, other: "Number | float") -> "Number":
        return self._with("+", other)

    def __sub__(self, other: "Number | float") -> "Number":
        return self._with("-", other)

    def __mul__(self, other: "Number | float") -> "Number":
        return self._with("*", other)

    def __truediv__(self, other: "Number | float") -> "Number":
        return self._with("/", other)

    def __rtruediv__(self, other: float) -> "Number":
        return self.like(other) / self

    def __floordiv__(self, other: "Number | int") -> "Number":
        return self._with("//", other)

    def __lshift__(self, other: "Number | int") -> "Number":
        return self._with("<<", other)

    def __rshift__(self, other: "Number | int") -> "Number":
        return self._with(">>", other)

    def __and__(self, other: "Number | int") -> "Number":
        return self._with("&", other)

    def __or__(self, other: "Number | int") -> "Number":
        return self._with("|", other)

    def __neg__(self) -> "Number":
        return self._new(self._builder.fneg(self.value))

    def __abs__(self) -> "Number":
        return self._intrinsic("llvm.fabs")

    def rint(self) -> "Number":
        """The nearest integer, of two the even one."""
        return self._intrinsic("llvm.rint")

    def compare(self, sign: str, other: "Number | float") -> "Number":
        """The truth of ``==``, ``<``, ``<=``, ``>`` or ``>=``; of NaN none holds."""
        is_float = isinstance(self.element, ir.FloatType)
        comparison = self._builder.fcmp_ordered if is_float else self._builder.icmp_unsigned
        return self._new(comparison(sign, self.value, self.like(other).value))

    def choose(self, yes: "Number | float", no: "Number") -> "Number":
        """``yes`` where this truth holds, else ``no``."""
        return self._new(self._builder.select(self.value, no.like(yes).value, no.value))

    def or_if_less(self, least: "Number | float") -> "Number":
        """``least`` where this is less."""
        return self.compare("<", least).choose(least, self)

    def or_if_more(self, most: "Number | float") -> "Number":
        """``most`` where this is more."""
        return self.compare(">", most).choose(most, self)

    def everywhere(self) -> "Number":
        """Whether a truth holds in all lanes."""
        bits = self._builder.bitcast(self.value, ir.IntType(self.lanes))
        return self._new(self._builder.icmp_unsigned("==", bits, ir.Constant(bits.type, -1)))

    def lane(self, index: int) -> "Number":
        """One of a vector."""
        return self._new(self._builder.extract_element(self.value, ir.Constant(ir.IntType(32), index)))

    def in_lanes(self, lanes: int) -> "Number":
        """The same number in every lane of a vector."""
        zero, index = ir.IntType(32)(0), ir.VectorType(ir.IntType(32), lanes)
        first = self._builder.insert_element(ir.VectorType(self.element, lanes)(ir.Undefined), self.value, zero)
        return self._new(self._builder.shuffle_vector(first, first, index([0] * lanes)))

    def steps(self, step: int) -> "Number":
        """The constants 0, ``step``, 2 · ``step`` …, as many as this has lanes."""
        return self._new(self.value.type([step * lane for lane in range(self.lanes or 1)]))

    def to_integer(self, bits: int) -> "Number":
        """As an unsigned integer; a float is one already, and from 0 to 2³¹ − 1."""
        if isinstance(self.element, ir.FloatType):
            return self._new(self._builder.fptosi(self.value, self._typed(ir.IntType(bits))))
        if bits == self.element.width:
            return self
        change = self._builder.trunc if bits < self.element.width else self._builder.zext
        return self._new(change(self.value, self._typed(ir.IntType(bits))))

    def to_float(self) -> "Number":
        """An integer below 2³¹ as float32."""
        return self._new(self._builder.sitofp(self.value, self._typed(ir.FloatType())))

    def _new(self, value: ir.Value) -> "Number":
        return Number(self._builder, value)

    def _with(self, sign: str, other: "Number | float") -> "Number":
        names = _OF_FLOATS if isinstance(self.element, ir.FloatType) else _OF_INTEGERS
        return self._new(getattr(self._builder, names[sign])(self.value, self.like(other).value))

    def _typed(self, element: ir.Type) -> ir.Type:
        return ir.VectorType(element, self.lanes) if self.lanes else element

    def _intrinsic(self, name: str) -> "Number":
        kind, module = self.value.type, self._builder.module
        name = f"{name}.v{self.lanes}f32" if self.lanes else f"{name}.f32"
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind]), name)
        return self._new(self._builder.call(function, [self.value]))


class Array:
    """The elements of an array, one after the other: numbers, or vectors of them."""

    def __init__(self, builder: ir.IRBuilder, pointer: ir.Value, element: ir.Type, lanes: int | None = None) -> None:
        self._builder = builder
        self._pointer = pointer
        self._element = element
        self._lanes = lanes

    def vectors(self, lanes: int) -> "Array":
        """The same memory as vectors."""
        return Array(self._builder, self._pointer, self._element, lanes)

    def __getitem__(self, index: Number) -> Number:
        found = self._builder.load(self._place(index), align=self._bytes(), typ=self._type())
        return Number(self._builder, found)

    def __setitem__(self, index: Number, number: Number) -> None:
        self._builder.store(number.value, self._place(index), align=self._bytes())

    def _type(self) -> ir.Type:
        return ir.VectorType(self._element, self._lanes) if self._lanes else self._element

    def _place(self, index: Number) -> ir.Value:
        return self._builder.gep(self._pointer, [index.value], source_etype=self._type())

    def _bytes(self) -> int:
        return 4 if isinstance(self._element, ir.FloatType) else int(self._element.width) // 8


class Variable:
    """What has another value, ``now``, at another time."""

    def __init__(self, builder: ir.IRBuilder, first: Number) -> None:
        self._builder = builder
        with builder.goto_entry_block():
            self._place = builder.alloca(first.value.type)
        self._type = first.value.type
        self.now = first

    @property
    def now(self) -> Number:
        """The value."""
        return Number(self._builder, self._builder.load(self._place, typ=self._type))

    @now.setter
    def now(self, number: Number) -> None:
        self._builder.store(number.value, self._place)


class Writer:
    """What writes a kernel besides the operators of numbers."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self._builder = builder

    def index(self, number: int) -> Number:
        """A constant index."""
        return Number(self._builder, _INDEX(number))

    def variable(self, first: Number) -> Variable:
        """A variable whose first value is ``first``."""
        return Variable(self._builder, first)

    @contextmanager
    def each(self, stop: Number, start: Number | int = 0, step: int = 1) -> Iterator[Number]:
        """A loop over indices from ``start`` to before ``stop``; what is written within is done for each."""
        builder, index = self._builder, self.variable(stop.like(start))
        head, inside, after = (builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        builder.cbranch(index.now.compare("<", stop).value, inside, after)
        builder.position_at_end(inside)
        yield index.now
        index.now += step
        builder.branch(head)
        builder.position_at_end(after)


def kernel(write: Callable[..., None], arguments: Mapping[str, str | None]) -> Callable[..., None]:
    """Compile what ``write`` writes.

    ``arguments`` has the type of each array's elements, as numpy writes it, and None for an index. ``write`` is given a
    :class:`Writer` and an :class:`Array` or :class:`Number` for each of them by name; the compiled function takes
    contiguous arrays of these types and integers, in this order. It lets go of Python's lock. Nothing checks indices.

    Raises:
        OSError: this process may not run what it writes.
        RuntimeError: LLVM does not take it.

    """
    pointer, module = ir.PointerType(), ir.Module()
    of_arguments = [_INDEX if dtype is None else pointer for dtype in arguments.values()]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), of_arguments), "kernel")
    entry, body = function.append_basic_block(), function.append_basic_block()
    builder = ir.IRBuilder(entry)
    builder.branch(body)
    builder.position_at_end(body)
    given: dict[str, Number | Array] = {}
    for (name, dtype), value in zip(arguments.items(), function.args, strict=True):
        given[name] = Number(builder, value) if dtype is None else Array(builder, value, _element(dtype))
    write(Writer(builder), **given)
    builder.ret_void()
    types = [
        ctypes.c_int64 if dtype is None else np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS")
        for dtype in arguments.values()
    ]
    return _Compiled(str(module), types)


def _element(dtype: str) -> ir.Type:
    kind = np.dtype(dtype)
    return ir.FloatType() if kind == np.float32 else ir.IntType(8 * kind.itemsize)


class _Compiled:
    """Machine code, which goes with this object, and what calls it."""

    def __init__(self, text: str, types: list[Any]) -> None:
        binding.check_jit_execution()  # OSError where LLVM would end the process
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        module = binding.parse_assembly(text)
        module.verify()
        features = binding.get_host_cpu_features().flatten()
        target = binding.Target.from_default_triple()
        machine = target.create_target_machine(binding.get_host_cpu_name(), features, opt=2, jit=True)
        passes = binding.create_new_module_pass_manager()
        passes.add_sroa_pass()  # variables into registers
        passes.run(module, binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(0)))
        self._engine = binding.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self._call = ctypes.CFUNCTYPE(None, *types)(self._engine.get_function_address("kernel"))

    def __call__(self, *given: Any) -> None:
        self._call(*given)
