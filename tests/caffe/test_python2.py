"""Python 2 sources: what they print on Python 3."""

import pytest

from pyscratchdet.caffe import python2
from pyscratchdet.caffe.python2 import ScriptError, compile_source, rewrite


def output(source, capsys):
    space = {**python2.names(), **python2.list_names(), "__name__": "__main__"}
    exec(compile_source(source, "script.py"), space)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print 'a', 1 + 1", "a 2\n"),
        ("print", "\n"),
        ("print 'a',\nprint 'b'", "a b\n"),
        ("print('a')\nprint 'b'", "a\nb\n"),
        ("print ('a', 'b')\nprint", "('a', 'b')\n\n"),
        ("print 'x%dy' % 3; print 'z'", "x3y\nz\n"),
        ("if True: print 'one line'", "one line\n"),
        ("import sys\nprint >>sys.stdout, 'to', 'stream'", "to stream\n"),
        ("import sys\nprint >> sys.stdout", "\n"),
        ("print {'a': [1, 2]}['a'], (3)", "[1, 2] 3\n"),
        ("print 'over',\\\n  'lines'", "over lines\n"),
        ("print 010, 0777, 0xffL, 10L", "8 511 255 10\n"),
        ("print ur'\\d'", "\\d\n"),
        ("print 1 <> 2, 3", "True 3\n"),
        ("exec 'a = 3'\nprint a", "3\n"),
        ("space = {}\nexec 'b = 4' in space\nprint space['b']", "4\n"),
        ("try:\n    raise ValueError, 'why'\nexcept ValueError, error:\n    print error", "why\n"),
        ("try:\n    1 / 0\nexcept (TypeError, ZeroDivisionError), e:\n    print 'caught'", "caught\n"),
        ("if True:\n\tprint 'tab'\n        print 'eight'", "tab\neight\n"),
    ],
)
def test_statements(source, expected, capsys):
    assert output(source, capsys) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print(7 / 2, -7 / 2, 7 / 2.0)", "3 -4 3.5\n"),
        ("a = 7\na /= 2\nprint(a)", "3\n"),
        ("b = [9.0]\nb[0] /= 2\nprint(b)", "[4.5]\n"),
        ("from __future__ import division\nprint(7 / 2)", "3.5\n"),
        ("d = {'x': 1, 'y': 2}\nprint(d.keys()[-1], d.values()[0], d.items()[1])", "y 1 ('y', 2)\n"),
        ("d = {'x': 1}\nprint(d.has_key('x'), d.has_key('z'))", "True False\n"),
        ("print(sum(v for k, v in {'x': 1, 'y': 2}.iteritems()))", "3\n"),
        ("print(list(xrange(1, 4)), range(2) + [5])", "[1, 2, 3] [0, 1, 5]\n"),
        ("print(map(str, [1]), filter(None, [0, 2]), zip([1], [2]))", "['1'] [2] [(1, 2)]\n"),
        ("print(reduce(lambda a, b: a * b, [2, 3, 4]))", "24\n"),
        ("print(isinstance('a', basestring), unicode(1), long(2), unichr(65))", "True 1 2 A\n"),
        ("assert len > 0\nprint(None < 1, 'a' > 1)", "True True\n"),
        ("import cPickle, StringIO\nfrom Queue import Queue\nprint(StringIO.StringIO('x').read())", "x\n"),
        ("class Box(object):\n    def keys(self):\n        return 'own'\nprint(Box().keys())", "own\n"),
    ],
)
def test_meanings(source, expected, capsys):
    assert output(source, capsys) == expected


def test_integer_arrays_divide_as_integers(capsys):
    source = "import numpy as np\na = np.array([7, 9])\nprint((a / 2).tolist(), (a / 2.0).tolist())"
    assert output(source, capsys) == "[3, 4] [3.5, 4.5]\n"


@pytest.mark.parametrize(
    "source",
    [
        "print(f'{7 / 2}')",
        "def half(x: int): return x / 2\nprint(half(7))",
        "def half(x, *, by): return x / by\nprint(half(7, by=2))",
        "a: int = 7\nprint(a / 2)",
    ],
)
def test_python3_keeps_its_meaning(source, capsys):
    assert output(source, capsys) == "3.5\n"


def test_a_name_called_print_is_no_statement(capsys):
    assert output("from __future__ import print_function\nshow = [print]\nprint\nshow[0](3, end='.')", capsys) == "3."
    assert rewrite("print = 3\nprint.x\n") == "print = 3\nprint.x\n\n"


@pytest.mark.parametrize("source", ["def f(:\n    pass\n", "x = (1,\n", "a = 'open\n", "\tif x:\nprint 3\n  y"])
def test_neither_language(source):
    with pytest.raises(ScriptError, match="cannot read this as Python 2 or 3") as error:
        compile_source(source, "broken.py")
    assert error.value.position.path == "broken.py"
