"""PTX text into kernels and functions: parameters, registers, shared variables and a list of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_HEADER = re.compile(r"\.(entry|func)\s*(\([^)]*\))?\s*([\w$]+)\s*(?:\(([^)]*)\))?([^;{]*)([;{])")
_VARIABLE = re.compile(
    r"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>[bsuf]\d+)\s+(?:\.ptr\s+)?(?:\.global\s+)?(?:\.align\s+\d+\s+)?"
    r"(?P<name>[\w$]+)(?P<array>\[(?P<count>\d*)\])?"
)
_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]*)"')
# What may stand where an instruction could begin.
_STATEMENT = re.compile(
    r"\s*(?:(?P<label>[\w$]+):(?!:)|(?P<open>\{)|(?P<close>\})|(?P<loc>\.loc[^\n]*)\n|(?P<text>[^;]*);)"
)
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.DOTALL)
_INSTRUCTION = re.compile(
    r"(?:@(?P<negated>!?)(?P<guard>%?[\w$]+)\s+)?(?P<opcode>[a-z][\w.:]*)\s*(?P<operands>.*)$", re.DOTALL
)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,\s][^,]*")
_NAME = re.compile(r"%?[A-Za-z_$][\w$]*")


class UnknownPtx(Exception):
    """PTX that the interpreter does not have: an instruction, a modifier or a form of one."""


@dataclass(frozen=True)
class Variable:
    """A parameter or a shared variable: ``size`` is None for the dynamic shared memory of a launch."""

    name: str
    kind: str
    size: int | None
    align: int


@dataclass(frozen=True)
class Instruction:
    """``parts``: the opcode split at its dots; ``where``: the source line, where the compiler has left it."""

    parts: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None
    negated: bool
    text: str
    where: str

    def __str__(self) -> str:
        return f"{self.text}{self.where and f'  ({self.where})'}"


@dataclass
class Function:
    """A kernel, or a function that kernels call. ``labels`` are positions in ``code``."""

    name: str
    is_kernel: bool
    parameters: list[Variable]
    results: list[Variable]
    registers: dict[str, str] = field(default_factory=dict)  # name: type, without the dot
    locals: dict[str, Variable] = field(default_factory=dict)  # parameters of the calls it makes
    shared: list[Variable] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    functions: dict[str, Function]
    shared: list[Variable]


def parse(text: str) -> Module:
    files = {number: path.rpartition("/")[2] for number, path in _FILE.findall(text)}
    text = _COMMENT.sub("", text)
    functions: dict[str, Function] = {}
    outside, position = [], 0
    while header := _HEADER.search(text, position):
        outside.append(text[position : header.start()])
        kind, results, name, parameters, _, end = header.groups()
        position = header.end()
        if end == ";":  # a declaration
            continue
        close = _closing(text, position)
        function = Function(name, kind == "entry", _variables(parameters or ""), _variables(results or ""))
        _Body(function, files).read(text[position:close])
        functions[name] = function
        position = close + 1
    shared = re.findall(r"\.shared\s+[^;]*;", "".join(outside))
    return Module(functions, [variable for each in shared for variable in _variables(each)])


def _closing(text: str, position: int) -> int:
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, position):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise UnknownPtx("a function without an end")


def _variables(text: str) -> list[Variable]:
    found = []
    for match in _VARIABLE.finditer(text):
        width = SIZES[match["type"][1:]]
        count = 1 if match["array"] is None else int(match["count"]) if match["count"] else None
        size = None if count is None else width * count
        found.append(Variable(match["name"], match["type"], size, int(match["align"] or width)))
    return found


class _Body:
    """Reads the statements of one function; a register of an inner scope gets a name of its own."""

    def __init__(self, function: Function, files: dict[str, str]) -> None:
        self.function = function
        self.files = files
        self.scopes: list[dict[str, str]] = [{}]
        self.where = ""

    def read(self, text: str) -> None:
        position = 0
        while text[position:].strip():
            statement = _STATEMENT.match(text, position)
            if statement is None:
                raise UnknownPtx(f"cannot be parsed: {text[position : position + 80].strip()!r}")
            position = statement.end()
            if statement["label"]:
                self.function.labels[statement["label"]] = len(self.function.code)
            elif statement["open"]:
                self.scopes.append({})
            elif statement["close"]:
                self.scopes.pop()
            elif statement["loc"]:
                _, number, line, *_ = statement["loc"].split()
                self.where = f"{self.files.get(number, '?')}:{line}"
            else:
                self.statement(" ".join(statement["text"].split()))

    def statement(self, text: str) -> None:
        if not text:
            return
        if declared := _REGISTERS.match(text):
            for name in declared[2].split(","):
                self.declare(declared[1], name.strip())
        elif text.startswith(".shared"):
            self.function.shared += _variables(text)
        elif text.startswith(".param"):
            self.function.locals.update({variable.name: variable for variable in _variables(text)})
        elif text.startswith(".pragma"):
            pass
        elif text.startswith("."):
            raise UnknownPtx(f"unknown directive: {text}")
        else:
            self.instruction(text)

    def declare(self, kind: str, name: str) -> None:
        scope = self.scopes[-1]
        if many := re.fullmatch(r"(%?[\w$]+)<(\d+)>", name):
            for i in range(int(many[2])):
                self.declare(kind, f"{many[1]}{i}")
            return
        unique = name if name not in self.function.registers else f"{name}#{len(self.function.registers)}"
        scope[name] = unique
        self.function.registers[unique] = kind

    def instruction(self, text: str) -> None:
        match = _INSTRUCTION.match(text)
        if match is None:
            raise UnknownPtx(f"cannot be parsed: {text!r}")
        self.function.code.append(
            Instruction(
                parts=tuple(match["opcode"].split(".")),
                operands=tuple(self.renamed(operand.strip()) for operand in _OPERAND.findall(match["operands"])),
                guard=self.renamed(match["guard"]) if match["guard"] else None,
                negated=match["negated"] == "!",
                text=text,
                where=self.where,
            )
        )

    def renamed(self, operand: str) -> str:
        def unique(name: re.Match[str]) -> str:
            return next((scope[name[0]] for scope in reversed(self.scopes) if name[0] in scope), name[0])

        return _NAME.sub(unique, operand) if len(self.scopes) > 1 else operand
