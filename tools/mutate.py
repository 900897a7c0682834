"""All single-token mutants of a source text: one operator, index, name or constant changed, at its exact place.

Changed are formulas. Left alone are docstrings, comments, annotations and type aliases, imports, decorators, `kind`
fields, texts, all of a `raise` (an error's words are no formula; the condition in front of it is), and names of which
only the form is read, as in `torch.ones_like(x)` and `x.dtype`: of two alike, either will do.
"""

from __future__ import annotations

import ast
import builtins
import io
import itertools
import token
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field

from siblings import FUNCTION_NAMES, NAMES, siblings

OPERATORS = {
    "+": ["-"],
    "-": ["+"],
    "*": ["/"],
    "/": ["*"],
    "**": ["*"],
    "//": ["/"],
    "%": ["//"],
    "@": ["*"],
    "|": ["&"],
    "&": ["|"],
    "<": ["<=", ">="],
    "<=": ["<", ">"],
    ">": [">=", "<="],
    ">=": [">", "<"],
    "==": ["!="],
    "!=": ["=="],
    "is": ["is not"],
    "is not": ["is"],
    "in": ["not in"],
    "not in": ["in"],
    "and": ["or"],
    "or": ["and"],
}
"""What each operator is changed to: a neighbour; an order's border is moved, and the order turned round."""

_FORM = {"device", "dtype", "ndim", "shape"}  # attributes that read nothing of a tensor but its form
_CORE = {"alpha", "sigma", "dalpha", "dsigma", "x0", "eps"}  # attributes there are, whether or not this file says so
_INDEXING = {"at", "slice", "select", "narrow"}  # calls whose arguments are indices
_BRANDS = {"Annotated", "Callable", "Generator", "Literal", "Union", "Optional"}  # what a type alias is made with


@dataclass(frozen=True)
class Mutant:
    """One token of one line changed. `within` is the function or class it is in; `owner` the line of the function.

    owner: where the innermost function starts (its first decorator's line), as in its code object; 0 for what runs
    when the module is imported, or once for many. begin and end: the place of `old` in `source`, in bytes.
    """

    file: str
    row: int
    within: str
    owner: int
    begin: int
    end: int
    old: str
    new: str
    line: str
    becomes: str
    source: str = field(repr=False, compare=False)

    def applied(self) -> str:
        """The whole text with the change made."""
        raw = self.source.encode()
        return (raw[: self.begin] + self.new.encode() + raw[self.end :]).decode()


def mutants(source: str, file: str) -> list[Mutant]:
    """All mutants of a module's text, in the order of the text; no two of one meaning, none of the text's own."""
    tree = ast.parse(source)
    text = _Text(source)
    found = sorted(set(_Finder(text, tree, file).found), key=lambda m: (m.begin, m.end, m.new))
    seen: set[str] = set()
    kept = []
    for node in tree.body:
        first, stop = text.place(_first_line(node), 0), text.place((node.end_lineno or 0) + 1, 0)
        seen.add(ast.dump(ast.parse(text.raw[first:stop])))
        for mutant in (m for m in found if first <= m.begin < stop):
            try:
                block = text.raw[first : mutant.begin] + mutant.new.encode() + text.raw[mutant.end : stop]
                meaning = ast.dump(ast.parse(block))
            except SyntaxError:  # `f(min=0, max=1)` with one name changed
                continue
            if meaning not in seen:
                seen.add(meaning)
                kept.append(mutant)
    return kept


class _Text:
    """A source text with places counted in bytes, as `ast` counts them."""

    def __init__(self, source: str) -> None:
        self.source, self.raw = source, source.encode()
        self.lines = source.splitlines(keepends=True)
        self.starts: list[int] = list(itertools.accumulate((len(line.encode()) for line in self.lines), initial=0))
        self.starts.append(len(self.raw))
        words = tokenize.generate_tokens(io.StringIO(source).readline)
        self.tokens = [
            (self.starts[t.start[0] - 1] + len(t.line[: t.start[1]].encode()), t.string)
            for t in words
            if t.type in (token.OP, token.NAME)
        ]

    def place(self, row: int, column: int) -> int:
        return self.starts[min(row, len(self.starts)) - 1] + column

    def begin(self, node: ast.expr | ast.keyword) -> int:
        return self.place(node.lineno, node.col_offset)

    def end(self, node: ast.expr) -> int:
        return self.place(node.end_lineno or 0, node.end_col_offset or 0)

    def operator(self, after: int, before: int) -> tuple[int, str]:
        """The operator between two operands: with the brackets around them, all there is."""
        found = [(at, word) for at, word in self.tokens if after <= at < before and word not in "()"]
        return found[0][0], " ".join(word for _, word in found)


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])


class _Finder(ast.NodeVisitor):
    """Walks the formulas of a module and collects mutants in `found`."""

    def __init__(self, text: _Text, tree: ast.Module, file: str) -> None:
        self.text, self.file = text, file
        self.found: list[Mutant] = []
        self.within: list[str] = []
        self.owners = [0]
        self.scopes = [set(dir(builtins)) | _bound(tree)]
        self.attributes = _CORE | {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        fields = (n.target for n in ast.walk(tree) if isinstance(n, ast.AnnAssign))
        self.attributes |= {target.id for target in fields if isinstance(target, ast.Name)}
        self.visit(tree)

    def add(self, begin: int, old: str, *news: str) -> None:
        end = begin + len(old.encode())
        row = next(i for i, start in enumerate(self.text.starts) if start > begin)
        line, at = self.text.lines[row - 1].rstrip("\n"), self.text.starts[row - 1]
        raw = line.encode()
        for new in news:
            becomes = (raw[: begin - at] + new.encode() + raw[end - at :]).decode()
            place = (self.file, row, ".".join(self.within), self.owners[-1], begin, end)
            self.found.append(Mutant(*place, old, new, line.strip(), becomes.strip(), self.text.source))

    # What is walked, and what is not.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        # What a cached function did in one test, another sees: it belongs to all of them.
        cached = any("cache" in ast.unparse(d) for d in node.decorator_list)
        for default in [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]:
            self.within.append(node.name)
            self.visit(default)
            self.within.pop()
        self.within.append(node.name)
        self.owners.append(0 if cached else _first_line(node))
        self.scopes.append(self.scopes[-1] | _bound(node))
        for statement in node.body:
            self.visit(statement)
        self.within.pop()
        self.owners.pop()
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            return  # it is never run
        self.within.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.within.pop()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.scopes.append(self.scopes[-1] | _bound(node))
        self.generic_visit(node)
        self.scopes.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and not (isinstance(node.target, ast.Name) and node.target.id == "kind"):
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {t.id for t in node.targets if isinstance(t, ast.Name)}
        if "__all__" in names or (len(self.owners) == 1 and _is_alias(node.value)):
            return
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit(self, node: ast.AST) -> None:
        if not isinstance(node, (ast.arg, ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr)):
            super().visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring, or an ellipsis
            self.generic_visit(node)

    # Operators.

    def between(self, left: ast.expr, right: ast.expr) -> None:
        at, word = self.text.operator(self.text.end(left), self.text.begin(right))
        self.add_operator(at, word)

    def add_operator(self, at: int, word: str) -> None:
        self.add(at, word, *OPERATORS.get(word, []))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.between(node.left, node.right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in itertools.pairwise(node.values):
            self.between(left, right)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in itertools.pairwise([node.left, *node.comparators]):
            self.between(left, right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.value, ast.JoinedStr):
            return
        at, word = self.text.operator(self.text.end(node.target), self.text.begin(node.value))
        self.add(at, word, *(f"{new}=" for new in OPERATORS.get(word.removesuffix("="), [])))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        at = self.text.begin(node)
        match node.op:
            case ast.USub():
                self.add(at, "-", "")
            case ast.Not():
                self.add(at, "not ", "")
            case ast.Invert():
                self.add(at, "~", "")
        self.generic_visit(node)

    # Indices.

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        self.index(node.slice)

    def index(self, node: ast.expr | None) -> None:
        """A subscript, or a part of one."""
        match node:
            case None:
                return
            case ast.Slice():
                for bound in (node.lower, node.upper, node.step):
                    self.index(bound)
                return
            case ast.Tuple():
                for part in node.elts:
                    self.index(part)
                return
            case ast.Constant(value=int(n)) if n is not True and n is not False:
                near = {n + 1, n - 1, *({0, 1, -1} - {n} if n in (0, 1) else ())}
                self.add(self.text.begin(node), str(n), *map(str, sorted(near)))
                return
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(n))):
                near = {1 - n, -n - 1, n, *({0, 1} if n == 1 else ())}
                self.add(self.text.begin(node), f"-{n}", *map(str, sorted(near)))
                return
            case ast.Name() if not node.id.isupper():
                self.add(self.text.begin(node), node.id, f"{node.id} + 1", f"{node.id} - 1")
            case ast.BinOp(left=left, right=right):
                self.between(left, right)
                for side in (left, right):
                    self.visit(side) if isinstance(side, ast.Name) else self.index(side)
                return
        self.visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            self.visit(node.func.value)
            self.attribute(node.func, FUNCTION_NAMES.get(name, []))
        else:
            name = getattr(node.func, "id", "")
            self.visit(node.func)
        for i, argument in enumerate(node.args):
            if name in _INDEXING:
                self.index(argument)
            elif not self.only_form(name, i, isinstance(node.func, ast.Attribute)):
                self.visit(argument)
        used = {k.arg for k in node.keywords}
        for keyword in node.keywords:
            if keyword.arg is not None:
                others = [*NAMES.get(keyword.arg, []), *FUNCTION_NAMES.get(keyword.arg, [])]
                self.add(self.text.begin(keyword), keyword.arg, *(o for o in others if o not in used))
            self.visit(keyword.value)

    # Names.

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            others = siblings(node.id, lambda name: name in self.scopes[-1])
            self.add(self.text.begin(node), node.id, *others)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr not in _FORM:
            self.visit(node.value)
            self.attribute(node, [])

    def attribute(self, node: ast.Attribute, functions: list[str]) -> None:
        if isinstance(node.ctx, ast.Load):
            others = siblings(node.attr, lambda name: name in self.attributes)
            others += [f for f in functions if f not in others]
            self.add(self.text.end(node) - len(node.attr.encode()), node.attr, *others)

    def only_form(self, function: str, argument: int, method: bool) -> bool:
        """Whether a function reads nothing of an argument but its form, or its class."""
        if function in ("isinstance", "issubclass"):
            return argument == 1
        return argument == (1 if function == "like" and not method else 0) and (
            function == "like" or function.endswith("_like")
        )

    # Constants.

    def visit_Constant(self, node: ast.Constant) -> None:
        at = self.text.begin(node)
        old = self.text.raw[at : self.text.end(node)].decode()
        match node.value:
            case bool(value):
                self.add(at, old, str(not value))
            case int(n):
                self.add(at, old, str(n + 1))
            case float(f):
                # By a hundredth, which a formula's value must show; a tolerance by what a tolerance may show.
                new = 1.0 if f == 0 else f * 1000 if abs(f) < 1e-6 else f * 1.01
                self.add(at, old, f"{new:.6g}" if "." in f"{new:.6g}" or "e" in f"{new:.6g}" else f"{new:.1f}")
            case str(word):  # Literal["small", "large"] is a number too, with another name
                self.add(at + 1, word, *(NAMES.get(word, []) if old[1:-1] == word else []))


def _bound(node: ast.AST) -> set[str]:
    """The names bound in a function, a lambda or a module (and in what is nested in it, but for functions)."""
    names: set[str] = set()
    for child in _inside(node):
        match child:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias():
                names.add((child.asname or child.name).split(".")[0])
    return names


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _inside(child)


def _is_alias(value: ast.expr) -> bool:
    match value:
        case ast.Subscript(value=ast.Name(id=name)):
            return name in _BRANDS
        case ast.BinOp(op=ast.BitOr()):
            return all(n.id[0].isupper() for n in ast.walk(value) if isinstance(n, ast.Name))
    return False
