"""The threads of some blocks as array lanes: their registers, how operands are read and results written.

A register is an array with one element per lane, of the unsigned type of its width. Reading it as another type of that
width is a view. An instruction is bound to the lanes once: ``source`` and ``sink`` give it functions to call.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from checked_memory import GlobalMemory, SharedMemory
from numpy.typing import NDArray
from ptx_text import SIZES, Function, Instruction, UnknownPtx
from races import WARP, Access

Array = NDArray[Any]
Mask = NDArray[np.bool_] | None  # None: all lanes
Source = Callable[[], Any]  # an array, or a scalar that is the same in all lanes
Sink = Callable[[Any, Mask], None]

TYPES: dict[str, np.dtype[Any]] = {
    **{f"{kind}{bits}": np.dtype(f"u{size}") for kind in "bu" for bits, size in SIZES.items()},
    **{f"s{bits}": np.dtype(f"i{size}") for bits, size in SIZES.items()},
    "f16": np.dtype(np.float16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    # The arithmetic on bf16 is fp32's with one more rounding: the product of two fits exactly, the sum does as well.
    "bf16": np.dtype(np.float32),
    "f16x2": np.dtype(np.uint32),
    "bf16x2": np.dtype(np.uint32),
    "pred": np.dtype(np.bool_),
}
FLOATS = ("f16", "bf16", "f32", "f64")


def bits_of(kind: str) -> int:
    if kind == "pred":
        return 1
    return 16 if kind == "bf16" else TYPES[kind].itemsize * 8


def bf16_to_f32(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values: Array) -> Array:
    """To the nearest, ties to even; NaN as the hardware writes it."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded.astype(np.uint16))


class Lanes:
    """``blocks`` blocks of ``threads`` threads each, which run a function and what it calls."""

    def __init__(self, blocks: int, threads: int, shared_names: dict[str, int]) -> None:
        self.blocks, self.threads, self.count = blocks, threads, blocks * threads
        self.shared_names = shared_names
        self.thread = np.tile(np.arange(threads, dtype=np.uint32), blocks)
        self.block = np.repeat(np.arange(blocks, dtype=np.uint32), threads)
        self.warp_start = np.arange(self.count) - self.thread % WARP  # the lane that is number 0 of its warp
        self.registers: dict[str, Array] = {}
        self.call_parameters: dict[str, Array] = {}
        self.parameters: NDArray[np.uint8] = np.zeros(0, np.uint8)  # of the launch
        self.parameter_names: dict[str, int] = {}
        self.epochs = np.zeros(self.count, np.int32)  # barriers of the block passed
        self.warp_epochs = np.zeros(self.count, np.int32)  # and of the warp
        # Set for every launch, and grid_block for every batch of blocks.
        self.grid_block = self.block.copy()
        self.grid_blocks = np.ones(self.count, np.uint32)
        self.memory: GlobalMemory
        self.shared: SharedMemory

    def enter(self, function: Function) -> None:
        """Make the registers of a function."""
        for name, kind in function.registers.items():
            if kind not in TYPES:
                raise UnknownPtx(f"unknown type of register: .{kind} {name}")
            dtype = np.dtype(np.bool_) if kind == "pred" else np.dtype(f"u{bits_of(kind) // 8}")
            self.registers[f"{function.name}:{name}"] = np.zeros(self.count, dtype)

    def grid_threads(self, mask: Mask) -> NDArray[np.int32]:
        every = (self.grid_block * np.uint32(self.threads) + self.thread).astype(np.int32)
        return every if mask is None else every[mask]

    def access(self, instruction: Instruction, writes: bool, mask: Mask) -> Access:
        chosen = slice(None) if mask is None else mask
        return Access(instruction, writes, self.grid_threads(mask), self.epochs[chosen], self.warp_epochs[chosen])

    def register(self, function: Function, operand: str) -> Array:
        try:
            return self.registers[f"{function.name}:{operand}"]
        except KeyError:
            raise UnknownPtx(f"not a register: {operand}") from None

    # ------------------------------------------------------------------------------------------------- operands

    def source(self, function: Function, operand: str, kind: str) -> Source:
        """Reads an operand as the type ``kind``."""
        if operand in function.registers:
            return self._from_register(self.register(function, operand), kind)
        if operand.startswith("!"):
            negated = self.source(function, operand[1:], kind)
            return lambda: ~negated()
        if operand.startswith("%"):
            return self._special(operand, kind)
        if operand in self.shared_names:
            return _constant(TYPES[kind].type(self.shared_names[operand]))
        if operand in self.parameter_names:
            return _constant(TYPES[kind].type(self.parameter_names[operand]))
        return _constant(_literal(operand, kind))

    def _from_register(self, register: Array, kind: str) -> Source:
        if kind == "bf16":
            return lambda: bf16_to_f32(register.astype(np.uint16))
        dtype = TYPES[kind]
        if kind == "pred" and register.dtype != np.bool_:
            raise UnknownPtx("a register that is no predicate is used as one")
        if register.dtype.itemsize < dtype.itemsize:
            raise UnknownPtx(f"a register of {register.dtype.itemsize * 8} bits is read as .{kind}")
        view = register.view(dtype).reshape(self.count, -1)[:, 0]  # of a wider register the low part
        return lambda: view

    def _special(self, operand: str, kind: str) -> Source:
        axis = operand.rpartition(".")[2]
        name = operand.partition(".")[0]
        of_x: dict[str, Source] = {
            "%tid": lambda: self.thread,
            "%ntid": lambda: np.uint32(self.threads),
            "%ctaid": lambda: self.grid_block,
            "%nctaid": lambda: self.grid_blocks,
        }
        flat: dict[str, Source] = {
            "%laneid": lambda: self.thread % np.uint32(WARP),
            "%warpid": lambda: self.thread // np.uint32(WARP),
        }
        dtype = TYPES[kind]
        if operand in flat:
            read = flat[operand]
        elif name in of_x and axis == "x":
            read = of_x[name]
        elif name in of_x and axis in ("y", "z"):
            read = _constant(np.uint32(name.startswith("%n")))  # grids and blocks of one dimension
        else:
            raise UnknownPtx(f"unknown special register: {operand}")
        return lambda: read().astype(dtype)

    def sink(self, function: Function, operand: str, kind: str) -> Sink:
        """Writes values of the type ``kind`` to a register; to a wider one with the sign or with zeros."""
        if operand == "_":
            return lambda values, mask: None
        register = self.register(function, operand)
        if kind == "pred":
            if register.dtype != np.bool_:
                raise UnknownPtx(f"{operand} is no predicate")
            return lambda values, mask: _put(register, values, mask)
        if register.dtype == np.bool_ or register.dtype.itemsize * 8 < bits_of(kind):
            raise UnknownPtx(f"{operand} cannot take a .{kind}")
        if kind == "bf16":
            return lambda values, mask: _put(register, f32_to_bf16(values), mask)
        if register.dtype.itemsize == TYPES[kind].itemsize:
            view = register.view(TYPES[kind])
        elif kind in FLOATS:
            bits, view = np.dtype(f"u{bits_of(kind) // 8}"), register
            return lambda values, mask: _put(view, np.asarray(values, TYPES[kind]).view(bits), mask)
        else:
            view = register.view(f"{'i' if kind[0] == 's' else 'u'}{register.dtype.itemsize}")
        return lambda values, mask: _put(view, values, mask)


def _put(target: Array, values: Any, mask: Mask) -> None:
    if mask is None:
        target[...] = values
    else:
        np.copyto(target, values, where=mask, casting="unsafe")


def _constant(value: Any) -> Source:
    return lambda: value


def _literal(text: str, kind: str) -> Any:
    """An immediate operand, as a scalar of the type."""
    dtype = TYPES[kind]
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        value = struct.unpack("<f", struct.pack("<I", int(text[2:], 16)))[0]
        number: Any = np.float32(value)
    elif re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        number = np.float64(struct.unpack("<d", struct.pack("<Q", int(text[2:], 16)))[0])
    else:
        try:
            number = int(text.rstrip("U"), 0)
        except ValueError:
            raise UnknownPtx(f"unknown operand: {text}") from None
    if kind == "pred":
        return np.bool_(number)
    if dtype.kind == "f":
        if isinstance(number, int):  # the bits
            return (
                np.array(number, f"u{bits_of(kind) // 8}").view(dtype)[()]
                if kind != "bf16"
                else bf16_to_f32(np.array([number], np.uint16))[0]
            )
        return dtype.type(number)
    if not isinstance(number, int):  # a float in a move of bits
        return number.view(f"u{number.itemsize}").astype(f"u{dtype.itemsize}").view(dtype)
    return np.array(number % 2 ** (dtype.itemsize * 8), f"u{dtype.itemsize}").view(dtype)[()]
