"""Flags as gflags takes them: one dash or two, and switches with every spelling of true and false."""

import argparse

import pytest

from pyscratchdet.cli.flags import add_flags


def parse(*arguments):
    parser = argparse.ArgumentParser(exit_on_error=False)
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
    with pytest.raises(argparse.ArgumentError, match="maybe"):
        parse("--encoded=maybe")
