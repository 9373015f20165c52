"""Flags as gflags takes them: one dash or two, and switches with every spelling of true and false."""

import pytest

from pyscratchdet.cli.flags import Parser, add_flags


def parse(*arguments):
    parser = Parser()
    parser.add_argument("rest", nargs="*")
    add_flags(parser, {"encoded": (False, "stored encoded"), "gray": (True, "one channel"), "size": (0, "of both")})
    return parser.parse_args(arguments)


@pytest.mark.parametrize("dashes", ["-", "--"])
@pytest.mark.parametrize(
    ("yes", "no"),
    [("true", "false"), ("True", "False"), ("TRUE", "fALSE"), ("t", "F"), ("y", "N"), ("Yes", "no"), "10"],
)
def test_switches(dashes, yes, no):
    found = parse(f"{dashes}encoded={yes}", f"{dashes}gray={no}", "rest")
    assert (found.encoded, found.gray, found.rest) == (True, False, ["rest"])


def test_a_switch_never_takes_the_next_word():
    found = parse("--encoded", "-nogray", "false", "-size", "3")
    assert (found.encoded, found.gray, found.rest, found.size) == (True, False, ["false"], 3)


@pytest.mark.parametrize("option", ["-encoded", "--encoded"])
def test_a_switch_says_which_values_it_takes(capsys, option):
    with pytest.raises(SystemExit):
        parse(f"{option}=maybe")
    assert f"{option}: takes one of true, t, 1, yes, y, false, f, 0, no, n, found 'maybe'" in capsys.readouterr().err
