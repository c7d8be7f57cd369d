"""Mutation testing: operators, constants and calls are changed one by one, and the tests have to notice.

Run ``python benchmarks/mutants.py`` (Linux or macOS, with the extras test and dev; half an hour on an idle core). Of
``meta``, ``tasks`` and ``solvers``, every mutant is put into a process forked from one that has collected the tests;
there the tests that reach its line are run, the shortest first, until one fails. ``--minutes 20`` draws mutants at
random until the time is over. Texts of messages, annotations, decorators and the ``strict=True`` of zip, which guards
against errors elsewhere, stay as they are. Those that survive are printed, with the reason why they may, which is
written by hand into ``mutants.txt`` and kept by later print-outs.
"""

import argparse
import ast
import copy
import gc
import os
import random
import re
import resource
import signal
import sys
import time
import types
from collections import Counter, defaultdict
from functools import cached_property, partial
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import coverage
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "sklearn_maml"
MODULES = "meta", "tasks", "solvers"
TESTS = "meta", "tasks", "solvers", "rows", "steps", "statistics"
PATIENCE, GIGABYTES = 3, 6
"""A mutant is caught by taking so many times as long as usual, and five seconds; or by more memory than that."""

EXPLAINED = Path(__file__).with_suffix(".txt")
"""A former print-out: after the survivors the reasons why they may, which are printed again."""

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def changes(node):
    """The nodes that may stand in the place of this one."""
    match node:
        case ast.Compare(ops=[operator]):
            yield _with(node, ops=[COMPARISONS[type(operator)]()])
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            yield _with(node, op=OPERATORS[type(operator)]())
        case ast.BoolOp(op=operator):
            yield _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(10 * value or 1.0)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=value) if value is not None and ast.unparse(value) != "None":
            yield ast.Return(None)
        case ast.Raise() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Attribute(value=value, attr="T" | "mT"):
            yield value
        case ast.Call(func=function, args=arguments, keywords=keywords):
            if len(arguments) == 1 and not keywords and not isinstance(arguments[0], ast.Starred):
                yield arguments[0]
            if isinstance(function, ast.Attribute) and function.attr in ("clip", "copy", "ravel", "astype"):
                yield function.value
            for keyword in [keyword for keyword in keywords if keyword.arg != "strict"]:
                yield _with(node, keywords=[other for other in keywords if other is not keyword])


def _with(node, **fields):
    node = copy.copy(node)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def mutants(source):
    """Every mutant: the lines of its statement (None: of all functions), what it changes, what makes its tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node
    for node in ast.walk(tree):
        for new in [] if _is_text(node) else changes(node):
            statement = node
            while not isinstance(statement, ast.stmt):
                statement = statement.parent
            body = getattr(statement, "body", None)
            end = body[0].lineno - 1 if body else statement.end_lineno
            inside = not isinstance(statement, ast.FunctionDef | ast.ClassDef) and _is_in_a_function(statement)
            lines = range(statement.lineno, max(end, statement.lineno) + 1) if inside else None
            around = node.parent if isinstance(node, ast.Constant) else node
            was, now = (ast.unparse(each).splitlines()[0] for each in (around, _replaced(around, node, new)))
            yield lines, f"{_function(node)}: {was}  ->  {now}", partial(_replaced, tree, node, new)


def _is_in_a_function(node):
    while hasattr(node, "parent"):
        node = node.parent
        if isinstance(node, ast.FunctionDef):
            return True
    return False


def _function(node):
    names = []
    while hasattr(node, "parent"):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        node = node.parent
    return ".".join(reversed(names))


def _is_text(node):
    """Whether it is part of a message, an annotation or a decorator."""
    while hasattr(node, "parent"):
        above = node.parent
        if isinstance(above, ast.JoinedStr | ast.Raise) or node is getattr(above, "annotation", None):
            return True
        if node in getattr(above, "decorator_list", []) or getattr(node, "arg", None) == "strict":
            return True
        node = above
    return False


def _replaced(tree, old, new):
    class Replace(ast.NodeTransformer):
        def visit(self, node):
            return new if node is old else self.generic_visit(_with(node))

        def generic_visit(self, node):
            for name, value in ast.iter_fields(node):
                if isinstance(value, list):
                    setattr(node, name, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])
                elif isinstance(value, ast.AST):
                    setattr(node, name, self.visit(value))
            return node

    return ast.fix_missing_locations(Replace().visit(tree))


class Campaign:
    """A pytest plugin: collects the tests, runs them once with a look at the lines they reach, then on every mutant."""

    def __init__(self, modules, minutes, again):
        self.modules, self.minutes, self.again = modules, minutes, again

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        items, seconds, reached = session.items, {}, defaultdict(lambda: defaultdict(set))
        data = coverage.Coverage(data_file=None, include=[str(ROOT / PACKAGE / f"{m}.py") for m in self.modules])
        data.start()
        for i, item in enumerate(items):
            data.switch_context(str(i))
            start = time.process_time()
            run(session, [item])
            seconds[i] = time.process_time() - start
        data.stop()
        if session.testsfailed:
            raise SystemExit("the tests fail without any mutant")
        for path in data.get_data().measured_files():
            for line, contexts in data.get_data().contexts_by_lineno(path).items():
                reached[Path(path).stem][line] = {int(context) for context in contexts if context}
        every = [(m, *mutant) for m in self.modules for mutant in mutants((ROOT / PACKAGE / f"{m}.py").read_text())]
        if self.again:
            survivors = survivors_in(self.again)
            every = [mutant for mutant in every if f"{mutant[0]}.{mutant[2]}" in survivors]
        random.Random(0).shuffle(every)
        gc.freeze()  # what the processes forked share stays shared
        reasons = survivors_in(EXPLAINED) if EXPLAINED.exists() else {}
        start, count = time.monotonic(), Counter()
        for module, lines, change, make in every:
            if time.monotonic() - start > 60 * self.minutes:
                break
            tests = seconds if lines is None else set().union(*(reached[module][each] for each in lines))
            tests = sorted(tests, key=seconds.get)
            alive = survives(session, module, make, [items[i] for i in tests], sum(map(seconds.get, tests)))
            count[module, alive] += 1
            if not count.total() % 100:
                os.write(2, f"{count.total()} of {len(every)}\n".encode())
            if alive:
                report(f"{module}.{change}  # {reasons.get(f'{module}.{change}', 'NOT EXPLAINED')}")
        for module in self.modules:
            n, killed, alive = sum(each[0] == module for each in every), count[module, False], count[module, True]
            report(f"{module}: {n} mutants, {killed + alive} tried, {killed} killed, {alive} survive")
        return True


def run(session, items):
    """Run these tests, until one fails."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return


def survives(session, module, make, items, usual):
    """Whether all these tests, which take `usual` seconds, pass with the module of the tree that `make` makes."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30,) * 2)
            signal.alarm(60 + int(10 * usual))  # should it wait for ever
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + 5 + PATIENCE * usual),) * 2)
            mutate(sys.modules[f"{PACKAGE}.{module}"], make())
            run(session, items)
            code = int(session.testsfailed > 0)
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def mutate(module, tree):
    """Change a module that others have imported from: its functions get the code of those made from the tree."""
    names = {"__name__": module.__name__, "__package__": module.__package__}
    exec(compile(tree, module.__file__, "exec"), names)
    for name, new in names.items():
        old = getattr(module, name, None)
        if isinstance(new, int | float | tuple):
            for other in list(sys.modules.values()):
                if getattr(other, "__name__", "").startswith(PACKAGE) and name in vars(other):
                    setattr(other, name, new)
        elif isinstance(new, type) and new.__module__ == module.__name__:
            for key, part in vars(new).items():
                if function_of(part) is None and isinstance(part, int | float | str | tuple) and key in vars(old):
                    if not key.startswith("__"):
                        setattr(old, key, part)
                elif function_of(part) is not None and function_of(part).__qualname__.startswith(name):
                    transplant(function_of(vars(old)[key]), function_of(part))
        elif isinstance(new, types.FunctionType) and new.__module__ == module.__name__:
            transplant(function_of(old), function_of(new))


def function_of(thing):
    """The plain function inside; None if there is none."""
    for name in ("fget", "func", "__func__", "__wrapped__"):
        if isinstance(thing, property | cached_property | classmethod | staticmethod | types.FunctionType):
            thing = getattr(thing, name, thing)
    return thing if isinstance(thing, types.FunctionType) else None


def transplant(old, new):
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def survivors_in(path):
    """The survivors in a print-out and, after a #, the reasons."""
    return dict(re.findall(r"^(\w+\..*?  ->  .*?)(?:  # (.*))?$", path.read_text(), flags=re.MULTILINE))


def report(line):
    os.write(REPORT, f"{line}\n".encode())


REPORT = os.dup(1)
"""The output that pytest does not capture."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most so many, at random")
    parser.add_argument("--again", type=Path, help="only those that survived in this print-out")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    campaign = Campaign(arguments.modules, arguments.minutes, arguments.again and arguments.again.resolve())
    files = [f"tests/test_{name}.py" for name in TESTS]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    without_threads = "not DataFrame and not parquet"  # those of polars do not survive a fork
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:cov", "-k", without_threads]
    pytest.main([*options, *files], plugins=[campaign])


if __name__ == "__main__":
    main()
