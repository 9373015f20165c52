"""Python 2 sources on Python 3: their syntax, and what it meant.

Statements that Python 3 cannot parse (print, exec, `except X, e`) are rewritten token by token; then `/`
between integers, `<` between types, and `keys()`, `map`... as lists get their old meaning in the syntax tree. A source
that uses something only Python 3 has keeps its own meaning.
"""

from __future__ import annotations

import ast
import builtins
import functools
import io
import itertools
import operator
import tokenize
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from pyscratchdet.errors import Position, PrototxtError

# Modules that moved: a script that imports the left one gets the right one.
MODULES = {
    "ConfigParser": "configparser",
    "Queue": "queue",
    "StringIO": "io",
    "cPickle": "pickle",
    "cStringIO": "io",
    "commands": "subprocess",
    "urllib2": "urllib.request",
}

Token = tokenize.TokenInfo
# Start and end in the source, and what to put there; `At` turns a token's (line, column) into an offset.
Edit = tuple[int, int, str]
At = Callable[[tuple[int, int]], int]


class ScriptError(PrototxtError):
    """A script that is valid neither as Python 3 nor as Python 2."""


def compile_source(source: str, path: str) -> Any:
    """Returns the code object of a Python 2 or 3 source, with Python 2's meaning where it is not clearly Python 3.

    Raises:
        ScriptError: It cannot be parsed.
    """
    return compile_tree(parse(source, path), path)


def compile_tree(tree: ast.Module, path: str) -> Any:
    """Returns the code object of what `parse` returned; see compile_source."""
    if not is_python3(tree):
        tree = ast.fix_missing_locations(_Python2().visit(tree))
    return _quietly(compile, tree, path, "exec", dont_inherit=True)


def _quietly(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Calls a parser without its warnings about Python 2 habits, such as regular expressions in plain strings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def parse(source: str, path: str) -> ast.Module:
    """Returns the syntax tree of a source, rewritten if Python 3 cannot parse it.

    Raises:
        ScriptError: It cannot be parsed.
    """
    failure: SyntaxError | None = None
    try:
        tree: ast.Module = _quietly(ast.parse, source, path)
        if not _has_print_statement(tree):
            return tree
    except SyntaxError as error:
        failure = error
    try:
        rewritten: ast.Module = _quietly(ast.parse, rewrite(source), path)
        return rewritten
    except SyntaxError as error:
        failure = error
    except tokenize.TokenError as error:
        failure = failure or SyntaxError(error.args[0])
    line, column = failure.lineno or 0, failure.offset or 0
    lines = source.splitlines()
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    raise ScriptError(
        f"cannot read this as Python 2 or 3: {failure.msg}",
        code="script.syntax",
        position=Position(path, line, column, text),
    )


def _has_print_statement(tree: ast.Module) -> bool:
    """Returns whether there is a bare `print` or `print >> file`, which Python 3 reads as expressions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            value = node.value.elts[0] if isinstance(node.value, ast.Tuple) and node.value.elts else node.value
            if isinstance(value, ast.BinOp) and isinstance(value.op, ast.RShift):
                value = value.left
            if isinstance(value, ast.Name) and value.id == "print":
                return not _imports_future(tree, "print_function")
    return False


def _imports_future(tree: ast.Module, name: str) -> bool:
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == name for alias in node.names)
        for node in tree.body
    )


def is_python3(tree: ast.Module) -> bool:
    """Returns whether a source uses what Python 2 does not have."""
    modern = (ast.JoinedStr, ast.AnnAssign, ast.Nonlocal, ast.AsyncFunctionDef, ast.NamedExpr, ast.YieldFrom)
    return any(isinstance(node, modern) or _has_modern_signature(node) for node in ast.walk(tree))


def _has_modern_signature(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef):
        return False
    annotated = any(argument.annotation for argument in node.args.args)
    return bool(node.returns or node.args.kwonlyargs or annotated)


def rewrite(source: str) -> str:
    """Returns the source with Python 2's statements and literals written as Python 3's; lines keep their numbers."""
    lines = [_untabbed(line) for line in source.replace("\r\n", "\n").split("\n")]
    source = "\n".join(lines) + "\n"
    # Literals first, since rewritten statements contain them.
    for edits_of in (_literals, _statements):
        source = _edited(source, edits_of)
    return source


def _edited(source: str, edits_of: Callable[[list[Token], At, str], Iterator[Edit]]) -> str:
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    offsets = [0]
    for line in source.split("\n"):
        offsets.append(offsets[-1] + len(line) + 1)

    def at(position: tuple[int, int]) -> int:
        return offsets[position[0] - 1] + position[1]

    for start, end, text in sorted(edits_of(tokens, at, source), reverse=True):
        source = source[:start] + text + source[end:]
    return source


def _untabbed(line: str) -> str:
    body = line.lstrip(" \t")
    return line[: len(line) - len(body)].expandtabs(8) + body


def _literals(tokens: list[Token], at: At, source: str) -> Iterator[Edit]:
    """Octal 0777, long 10L, ur'...', and `<>`."""
    for first, second in itertools.pairwise(tokens):
        touching = first.end == second.start
        if touching and first.string == "0" and second.type == tokenize.NUMBER and second.string.isdigit():
            yield at(first.start), at(first.end), "0o"
        elif touching and first.type == tokenize.NUMBER and second.string in ("L", "l"):
            yield at(second.start), at(second.end), ""
        elif touching and first.string.lower() == "ur" and second.type == tokenize.STRING:
            yield at(first.start), at(first.end), "r"
        elif touching and first.string == "<" and second.string == ">":
            yield at(first.start), at(second.end), "!="
        if first.string == "<>":
            yield at(first.start), at(first.end), "!="


def _statements(tokens: list[Token], at: At, source: str) -> Iterator[Edit]:
    for statement in _split(tokens):
        keyword, rest = statement[0], statement[1:]
        start, end = at(keyword.start), at(statement[-1].end)
        body = source[at(keyword.end) : end].strip()
        if keyword.string == "print" and not (rest and rest[0].string in ("=", ".")):
            yield start, end, _print(rest, body, at, source)
        elif keyword.string == "exec" and rest and rest[0].string != "(":
            yield start, end, _exec(rest, at, source)
        elif keyword.string in ("except", "raise"):
            comma = next((token for token, depth in _depths(rest) if depth == 0 and token.string == ","), None)
            if comma is None:
                continue
            if keyword.string == "except":
                yield at(comma.start), at(comma.end), " as"
            else:
                yield at(comma.start), at(comma.end), "("
                yield end, end, ")"


def _split(tokens: list[Token]) -> Iterator[list[Token]]:
    """Yields simple statements (and headers up to their colon) as lists of tokens."""
    skipped = (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    statement: list[Token] = []
    depth = 0
    for token in tokens:
        if token.type in skipped:
            continue
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        is_end = token.type in (tokenize.NEWLINE, tokenize.ENDMARKER) or (depth == 0 and token.string in (";", ":"))
        if is_end:
            if statement:
                yield statement
            statement = []
        else:
            statement.append(token)


def _depths(tokens: list[Token]) -> Iterator[tuple[Token, int]]:
    depth = 0
    for token in tokens:
        if token.type == tokenize.OP and token.string in ")]}":
            depth -= 1
        yield token, depth
        if token.type == tokenize.OP and token.string in "([{":
            depth += 1


def _print(rest: list[Token], body: str, at: At, source: str) -> str:
    if not rest:
        return "print()"
    suffix = ""
    if rest[-1].string == ",":
        body, suffix = body[: body.rindex(",")], ", end=' '"
    if rest[0].string == ">>":
        comma = next((token for token, depth in _depths(rest) if depth == 0 and token.string == ","), None)
        end = at(comma.start) if comma else at(rest[-1].end)
        stream = source[at(rest[0].end) : end].strip()
        body = source[at(comma.end) : at(rest[-1].end)].strip() if comma else ""
        return f"print({body}{', ' if body else ''}file={stream}{suffix})"
    # A parenthesised list was a tuple: it stays one.
    return f"print({body}{suffix})"


def _exec(rest: list[Token], at: At, source: str) -> str:
    word = next((token for token, depth in _depths(rest) if depth == 0 and token.string == "in"), None)
    if word is None:
        return f"exec({source[at(rest[0].start) : at(rest[-1].end)]})"
    code, scope = source[at(rest[0].start) : at(word.start)], source[at(word.end) : at(rest[-1].end)]
    return f"exec({code.strip()}, {scope.strip()})"


class _Python2(ast.NodeTransformer):
    """Gives division and dictionary views their old meaning."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self._true_division = _imports_future(node, "division")
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Div) and not self._true_division:
            return ast.copy_location(_call("__divide__", node.left, node.right), node)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div) or self._true_division:
            return node
        current = ast.parse(ast.unparse(node.target), mode="eval").body
        value = _call("__divide_in_place__", current, node.value)
        return ast.copy_location(ast.Assign(targets=[node.target], value=value), node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        name = _ORDERINGS.get(type(node.ops[0]))
        if name is None or len(node.ops) > 1:
            return node
        return ast.copy_location(_call("__compare__", ast.Constant(name), node.left, node.comparators[0]), node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS and not node.keywords:
            method = ast.Constant(node.func.attr)
            return ast.copy_location(_call("__method__", node.func.value, method, *node.args), node)
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        for alias in node.names:
            if alias.name in MODULES:
                alias.asname, alias.name = alias.asname or alias.name, MODULES[alias.name]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module in MODULES and not node.level:
            node.module = MODULES[node.module]
        return node


_ORDERINGS = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}

# Methods that returned lists, or no longer exist; __method__ looks at the object first.
_METHODS = ("has_key", "items", "iteritems", "iterkeys", "itervalues", "keys", "values")


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(func=ast.Name(id=name, ctx=ast.Load()), args=list(arguments), keywords=[])


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u")


def _divide(left: Any, right: Any) -> Any:
    return left // right if _is_whole(left) and _is_whole(right) else left / right


def _divide_in_place(left: Any, right: Any) -> Any:
    whole = _is_whole(left) and _is_whole(right)
    if whole:
        left //= right
    else:
        left /= right
    return left


def _compare(name: str, left: Any, right: Any) -> Any:
    """Compares as Python 2 does: of different types, None comes first, then numbers, then others by type name."""
    try:
        return getattr(operator, name)(left, right)
    except TypeError:
        return getattr(operator, name)(_rank(left), _rank(right))


def _rank(value: Any) -> tuple[int, str]:
    if value is None:
        return 0, ""
    return (1, "") if isinstance(value, (int, float)) else (2, type(value).__name__)


def _method(value: Any, name: str, *arguments: Any) -> Any:
    if not isinstance(value, dict):
        return getattr(value, name)(*arguments)
    if name == "has_key":
        return arguments[0] in value
    view = getattr(value, name.removeprefix("iter"))(*arguments)
    return iter(view) if name.startswith("iter") else list(view)


def _as_list(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    return lambda *arguments: list(function(*arguments))


def names() -> dict[str, Any]:
    """Returns what a Python 2 script expects among the built-in names, and the helpers of rewritten code."""
    return {
        "__compare__": _compare,
        "__divide__": _divide,
        "__divide_in_place__": _divide_in_place,
        "__method__": _method,
        "basestring": str,
        "execfile": lambda path: exec(compile_source(open(path).read(), path), {"__name__": "__main__"}),
        "file": open,
        "long": int,
        "raw_input": builtins.input,
        "reduce": functools.reduce,
        "unichr": chr,
        "unicode": str,
        "xrange": range,
    }


def list_names() -> dict[str, Any]:
    """Returns the built-in functions that returned lists in Python 2."""
    return {name: _as_list(getattr(builtins, name)) for name in ("filter", "map", "range", "zip")}
