"""Flags as gflags takes them: one dash or two, and switches with every spelling of true and false."""

import io
import sys

import pytest

from pyscratchdet.cli import main
from pyscratchdet.cli.console import console, plain_table
from pyscratchdet.cli.flags import EXIT_STATUSES, Parser, add_flags


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


def test_help_of_all_commands_has_the_exit_statuses(capsys):
    assert main(["--help"]) == 0
    assert " ".join(capsys.readouterr().out.split()).endswith(EXIT_STATUSES)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "no_color", "coloured"), [(Terminal, None, True), (Terminal, "1", False),
                                                              (io.StringIO, None, False)])  # fmt: skip
def test_colour_is_for_terminals_that_want_it(monkeypatch, stream, no_color, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stdout", stream())
    table = plain_table(("name",))
    table.add_row("row", style="red")
    console().print(table)
    assert ("\x1b[31m" in sys.stdout.getvalue()) == coloured
