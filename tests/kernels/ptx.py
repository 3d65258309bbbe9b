"""A small interpreter of PTX: what the compiler made of a kernel runs on the CPU, in NumPy, one lane for each thread of the launch.

Every lane has a place of its own in the program; the lanes that stand first go next, so branches join again by themselves, and a lane waits
at a barrier until its program has arrived. Memory is the storages of the tensors given: a read or write outside of them, or not aligned,
raises, which neither a GPU nor Triton's interpreter does. An instruction that is not known raises too. A test tool: no timing, no races.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch

from tests.kernels.ptx_arithmetic import TYPES, PtxError, arithmetic, compare, convert

STORED = {"p": np.dtype(bool), "rs": np.dtype("u2"), "r": np.dtype("u4"), "rd": np.dtype("u8")}  # bits of a register, by its class
WARP = 32


@dataclass(frozen=True)
class Instruction:
    """One line: ``@guard opcode operands``."""

    text: str
    parts: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str = ""
    unless: bool = False


@dataclass(frozen=True)
class Program:
    """A kernel: parameters by type, instructions, and where its labels stand."""

    parameters: tuple[str, ...]
    threads: int
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


def parse(text: str) -> Program:
    """The only kernel of a PTX module."""
    text = re.sub(r"//[^\n]*", "", text)
    head, body = re.search(r"\.entry[^(]*\((.*?)\)(.*)", text, re.DOTALL).groups()
    parameters = tuple(re.findall(r"\.param \.(\w+)", head))
    threads = int(re.search(r"\.reqntid (\d+)", body)[1])
    instructions, labels = [], {}
    for line in re.split(r"[;\n]", body[body.index("{") + 1 :].split("$L__func_end")[0]):
        line = line.strip()
        if label := re.fullmatch(r"(\$\w+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.fullmatch(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)", line):
            unless, guard, opcode, rest = found.groups()
            operands = tuple(part.strip() for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest))
            instructions.append(Instruction(line, tuple(opcode.split(".")), operands, guard or "", bool(unless)))
    return Program(parameters, threads, tuple(instructions), labels)


class Memory:
    """The storages that a launch may touch, at their true addresses."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
        self.bases = np.array(sorted(storages), dtype=np.uint64)
        self.arrays = [torch.empty(0, dtype=torch.uint8).set_(storages[int(base)]).numpy() for base in self.bases]

    def pieces(self, addresses: np.ndarray, size: int):
        """(lanes, array, places) of each storage touched."""
        owners = np.searchsorted(self.bases, addresses, side="right") - 1
        for owner in np.unique(owners):
            here = owners == owner
            array = self.arrays[owner]
            places = (addresses[here] - self.bases[owner]).astype(np.int64)
            if owner < 0 or places.max() + size > len(array):
                raise PtxError(f"outside of every tensor, {int(places.max()) + size - len(array)} bytes behind the one before")
            yield here, array[: len(array) // size * size].view(f"u{size}"), places // size


class Machine:
    """The state of one launch."""

    def __init__(self, program: Program, blocks: int, arguments: list[int | float], tensors: list[torch.Tensor], shared_bytes: int) -> None:
        self.program, self.memory = program, Memory(tensors)
        self.size = blocks * program.threads
        lane = np.arange(self.size, dtype=np.uint32)
        self.special = {"%tid.x": lane % program.threads, "%ctaid.x": lane // program.threads, "%laneid": lane % WARP}
        self.block = lane // program.threads
        self.shared = np.zeros((blocks, (shared_bytes + 15) // 8 * 8), dtype=np.uint8)
        self.registers: dict[str, np.ndarray] = {}
        self.arguments = arguments
        self.at = np.zeros(self.size, dtype=np.int64)
        self.done, self.waiting, self.held = (np.zeros(self.size, dtype=bool) for _ in range(3))  # held: at a shuffle

    def run(self, limit: int = 2_000_000) -> None:
        """Until every lane has returned."""
        with np.errstate(all="ignore"):
            for _ in range(limit):
                ready = ~(self.done | self.waiting | self.held)
                if not ready.any():
                    if self.held.any():
                        raise PtxError("a shuffle that not all lanes of the warp reach")
                    if self.done.all():
                        return
                    self.waiting[:] = False  # all that is left of every program has arrived
                    continue
                place = self.at[ready].min()
                instruction = self.program.instructions[place]
                here = (self.at == place) & ~(self.done | self.waiting)
                if instruction.parts[0] == "shfl":  # the lanes of a warp wait for one another
                    whole = np.repeat(here.reshape(-1, WARP).all(1), WARP)
                    self.held[here] = ~whole[here]
                    here &= whole
                lanes = np.flatnonzero(here)
                self.at[lanes] += 1
                if instruction.guard:
                    lanes = lanes[self.value(instruction.guard, "pred", lanes) != instruction.unless]
                if len(lanes):
                    try:
                        self.step(instruction, lanes)
                    except (PtxError, KeyError, ValueError) as error:
                        raise PtxError(f"{error!r} at: {instruction.text}") from error
        raise PtxError("no end in sight")

    def value(self, operand: str, kind: str, lanes: np.ndarray) -> np.ndarray:
        """An operand of some type, for the lanes."""
        wanted = TYPES[kind]
        if operand in self.special:
            return self.special[operand][lanes].astype(wanted)
        if operand.startswith("%"):
            bits = self.registers[operand][lanes]
            if wanted.kind == "f":
                return bits.view(wanted)
            return bits if wanted.kind == "b" else bits.astype(f"u{wanted.itemsize}").view(wanted)
        if operand == "global_smem":
            return np.zeros(len(lanes), dtype=wanted)
        if operand.startswith(("0f", "0d")):
            return np.full(len(lanes), int(operand[2:], 16), dtype=f"u{wanted.itemsize}").view(wanted)
        number = np.full(len(lanes), int(operand, 0), dtype=object)
        return (number & ((1 << 8 * wanted.itemsize) - 1)).astype(f"u{wanted.itemsize}").view(wanted) if wanted.kind != "b" else number != 0

    def write(self, register: str, result: np.ndarray, lanes: np.ndarray) -> None:
        """Result bits into a register; a wider register is extended, with the sign where the result has one."""
        stored = STORED[re.match(r"%([a-z]+)", register)[1]]
        if register not in self.registers:
            self.registers[register] = np.zeros(self.size, dtype=stored)
        if result.dtype.kind == "f":
            result = result.view(f"u{result.itemsize}")
        self.registers[register][lanes] = result.astype(stored)

    def step(self, instruction: Instruction, lanes: np.ndarray) -> None:
        """One instruction."""
        name, operands, parts = instruction.parts[0], instruction.operands, instruction.parts
        kind = parts[-1]
        if name == "ret":
            self.done[lanes] = True
        elif name == "bra":
            self.at[lanes] = self.program.labels[operands[0]]
        elif name in ("bar", "barrier"):
            self.waiting[lanes] = True
        elif name == "mov":
            self.move(operands, kind, lanes)
        elif name in ("ld", "st"):
            (self.load if name == "ld" else self.store)(instruction, lanes)
        elif name in ("ldmatrix", "stmatrix"):
            self.matrices(instruction, lanes)
        elif name == "shfl":
            self.shuffle(instruction, lanes)
        elif name == "cvt":
            self.write(operands[0], convert(self.value(operands[1], kind, lanes), kind, parts[-2]), lanes)
        elif name == "setp":
            self.write(operands[0], compare(parts[1], *(self.number(operand, kind, lanes) for operand in operands[1:])), lanes)
        elif name == "selp":
            chosen = self.value(operands[3], "pred", lanes)
            self.write(operands[0], np.where(chosen, *(self.value(operand, kind, lanes) for operand in operands[1:3])), lanes)
        else:
            kinds = [kind, kind, f"{kind[0]}64"] if "wide" in parts else [kind] * 3
            values = [self.value(operand, each, lanes) for operand, each in zip(operands[1:], kinds, strict=False)]
            self.write(operands[0], arithmetic(name, parts, kind, values), lanes)

    def number(self, operand: str, kind: str, lanes: np.ndarray) -> np.ndarray:
        """A value to compare; bfloat16 as the float32 it is."""
        value = self.value(operand, kind, lanes)
        return convert(value, "bf16", "f32") if kind == "bf16" else value

    def move(self, operands: tuple[str, ...], kind: str, lanes: np.ndarray) -> None:
        """A copy; ``{a, b}`` on one side cuts a register in two or makes one of two."""
        target, source = operands
        half = TYPES["b16" if kind == "b32" else "b32"]
        if target.startswith("{"):
            bits = self.value(source, kind, lanes)
            for number, register in enumerate(members(target)):
                if register != "_":
                    self.write(register, (bits >> bits.dtype.type(8 * half.itemsize * number)).astype(half), lanes)
        elif source.startswith("{"):
            low, high = (self.value(part, f"u{8 * half.itemsize}", lanes).astype(TYPES[kind]) for part in members(source))
            self.write(target, low | (high << high.dtype.type(8 * half.itemsize)), lanes)
        else:
            self.write(target, self.value(source, kind, lanes), lanes)

    def addresses(self, operand: str, kind: str, lanes: np.ndarray, size: int) -> np.ndarray:
        """What ``[register + number]`` says; raises where it is not aligned."""
        register, _, offset = operand.strip("[] ").replace(" ", "").partition("+")
        found = self.value(register, kind, lanes).astype(np.uint64) + np.uint64(int(offset or 0))
        if (found % np.uint64(size)).any():
            raise PtxError(f"an address is no multiple of {size} bytes")
        return found

    def load(self, instruction: Instruction, lanes: np.ndarray) -> None:
        target, operand = instruction.operands
        kind, space = instruction.parts[-1], instruction.parts[1]
        if space == "param":
            number = int(re.search(r"param_(\d+)", operand)[1])
            value, declared = self.arguments[number], self.program.parameters[number]
            bits = np.full(len(lanes), value, dtype=TYPES["f" + declared[1:]] if isinstance(value, float) else object)
            if not isinstance(value, float):
                bits = (bits & ((1 << 8 * TYPES[declared].itemsize) - 1)).astype(f"u{TYPES[declared].itemsize}")
            self.write(target, bits.view(f"u{bits.itemsize}").astype(f"u{TYPES[kind].itemsize}").view(TYPES[kind]), lanes)
            return
        registers, size = members(target), TYPES[kind].itemsize
        first = self.addresses(operand, "b64" if space == "global" else "b32", lanes, size * len(registers))
        for number, register in enumerate(registers):
            at, bits = first + np.uint64(size * number), np.zeros(len(lanes), dtype=f"u{size}")
            if space == "global":
                for here, array, places in self.memory.pieces(at, size):
                    bits[here] = array[places]
            else:
                bits = self.shared.view(f"u{size}")[self.block[lanes], at.astype(np.int64) // size]
            self.write(register, bits.view(TYPES[kind]), lanes)

    def store(self, instruction: Instruction, lanes: np.ndarray) -> None:
        operand, source = instruction.operands
        kind, space = instruction.parts[-1], instruction.parts[1]
        registers, size = members(source), TYPES[kind].itemsize
        first = self.addresses(operand, "b64" if space == "global" else "b32", lanes, size * len(registers))
        for number, register in enumerate(registers):
            at, bits = first + np.uint64(size * number), self.value(register, f"u{8 * size}", lanes)
            if space == "global":
                for here, array, places in self.memory.pieces(at, size):
                    array[places] = bits[here]
            else:
                self.shared.view(f"u{size}")[self.block[lanes], at.astype(np.int64) // size] = bits

    def matrices(self, instruction: Instruction, lanes: np.ndarray) -> None:
        """``ldmatrix`` and ``stmatrix``: 8 x 8 halves; lanes ``8 m`` to ``8 m + 7`` tell the rows of matrix ``m``, every lane holds a pair.

        The pair of lane ``l`` is row ``l // 4``, columns ``l % 4 * 2`` and the next; transposed it is column ``l // 4`` of those rows.
        """
        storing = instruction.parts[0] == "stmatrix"
        operand, held = instruction.operands if storing else instruction.operands[::-1]
        rows = np.zeros(self.size, dtype=np.int64)
        rows[lanes] = self.addresses(operand, "b32", lanes, 16)
        warp, lane, memory = lanes // WARP * WARP, lanes % WARP, self.shared.view("u2")
        for matrix, register in enumerate(members(held)):
            pair = np.zeros((2, len(lanes)), dtype=np.uint32)
            bits = self.value(register, "b32", lanes) if storing else None
            for half in (0, 1):
                row, column = (lane % 4 * 2 + half, lane // 4) if "trans" in instruction.parts else (lane // 4, lane % 4 * 2 + half)
                at = rows[warp + 8 * matrix + row] // 2 + column
                if bits is not None:
                    memory[self.block[lanes], at] = (bits >> np.uint32(16 * half)).astype(np.uint16)
                else:
                    pair[half] = memory[self.block[lanes], at]
            if bits is None:
                self.write(register, pair[0] | pair[1] << np.uint32(16), lanes)

    def shuffle(self, instruction: Instruction, lanes: np.ndarray) -> None:
        """Butterfly exchange within whole warps."""
        if instruction.parts[2] != "bfly" or len(lanes) % WARP:
            raise PtxError("a shuffle of an unknown kind, or under a guard that parts the warp")
        target, source, distance, _, _ = instruction.operands
        everything = np.zeros(self.size, dtype=np.uint32)
        everything[lanes] = self.value(source, "b32", lanes)
        self.write(target, everything[lanes ^ int(distance, 0)], lanes)


def members(operand: str) -> list[str]:
    """The registers and numbers of ``{a, b}``, or the one that stands alone."""
    return [member.strip() for member in operand.strip("{} ").split(",")]
