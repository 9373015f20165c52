"""How all commands behave in a terminal and in a pipe: each rule is tried on every command there is."""

import argparse
import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections import defaultdict

import pytest
from access_cases import ROWS, make_files

import pyscratchdet.solver.launch  # noqa: F401 - so that its Progress is found
from pyscratchdet import progress
from pyscratchdet.cli import COMMANDS, command_parser, main
from pyscratchdet.cli.flags import EXIT_STATUSES, QUIET

# Where a command prints figures on another line than that of access_cases.py.
FIGURES = {
    "generate": "generate --list",
    "lmdb": "lmdb show kit/db",
    "detect": "detect kit/VOCdevkit/VOC2007/JPEGImages --model kit/detector.prototxt --weights kit/detector.caffemodel"
    " --benchmark",
}
# What takes as long as its data is large: it says how far it is, how long it will take, and what Ctrl-C does.
LONG = {"train", "test", "time", "evaluate voc", "evaluate coco", "evaluate folder", "evaluate caffe", "score",
        "detect", "detect --engine", "lmdb", "lmdb voc", "lmdb coco", "lmdb folder", "get-image-size",
        "compute-image-mean", "extract-features", "demo-data"}  # fmt: skip
# Flags that take different things in different commands, and why they are called alike all the same.
DIFFERENT = {
    "--against": "what is compared: an engine in verify, a net in view",
    "--data": "a folder, but COCO's set is one json",
    "--gpu": "one device, or several where Caffe's tool takes several",
    "--images": "COCO's pictures; demo-data's number of them",
    "--input": "shapes in convert, sizes in summary, what verify feeds the net with",
    "--json": "verify can write it to a file",
    "--output": "a folder where several files are written",
    "-o": "as --output",
    "--results": "a folder, but COCO's results are one json",
    "--resume": "detect keeps what it needs in its output folder, others are told where it is",
    "--size": "an input has a height and a width, what is square a side",
    "--snapshot": "Caffe's names: a solver's interval and a file to go on from",
    "--weights": "train starts from several",
}


def parsers(command):
    """Yields (name, parser) of a command and of its forms."""
    todo = [(command, command_parser(command)[1])]
    while todo:
        name, parser = todo.pop()
        kinds = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        todo += [(f"{name} {kind}", child) for action in kinds for kind, child in action.choices.items()]
        if not kinds:
            yield name, parser


PARSERS = [entry for command in COMMANDS for entry in parsers(command)]


def parser_of(row):
    """Returns the parser of a row of access_cases.py, which may be of one form of a command, or with one flag."""
    known = dict(PARSERS)
    return known[row.command if row.command in known else row.command.split()[0]]


def has_flag(parser, flag):
    return flag in parser._option_string_actions


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manners")
    make_files(folder)
    return folder


@pytest.fixture
def run(root, tmp_path, monkeypatch):
    """Returns a function that runs a line as in a pipe and gives what it printed on (stdout, stderr)."""
    monkeypatch.chdir(root)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    number = 0

    def call(line, stream=io.StringIO):
        nonlocal number
        number += 1
        out, err = stream(), stream()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(shlex.split(line.replace("OUT", str(tmp_path / str(number)))))
        assert status == 0, err.getvalue()
        return out.getvalue(), err.getvalue()

    return call


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_every_command_is_tried():
    assert {name for name, _ in PARSERS} - {"completion"} <= {row.command for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.command)
@pytest.mark.filterwarnings("default")
def test_a_pipe_gets_plain_text_and_quiet_only_results(row, run):
    """No colour, no cursor movements, no padding; with --quiet nothing of a command whose result is its files."""
    out, err = run(row.line)
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", out + err)
    assert [line for line in out.splitlines() if line != line.rstrip()] == []
    quiet, quiet_err = run(f"{row.line} --quiet")
    assert quiet_err == ""
    if row.writes and not has_flag(parser_of(row), "--json"):
        assert quiet == ""
    assert len(quiet.splitlines()) <= len((out + err).splitlines())


@pytest.mark.parametrize("name", [name for name, parser in PARSERS if has_flag(parser, "--json")])
@pytest.mark.filterwarnings("default")
def test_json_is_all_that_stdout_gets(name, run):
    line = FIGURES.get(name) or next(row.line for row in ROWS if row.command == name).partition(" --json")[0]
    out, _ = run(f"{line} --json")
    quiet, err = run(f"{line} --json --quiet")
    assert json.loads(out)
    assert json.loads(quiet).keys() == json.loads(out).keys() if isinstance(json.loads(out), dict) else True
    assert err == ""


@pytest.mark.parametrize("name", [name for name, parser in PARSERS if not has_flag(parser, "--json")])
def test_what_prints_a_table_has_json(name, run, monkeypatch):
    """A command without --json makes no table."""
    rich_table = pytest.importorskip("rich.table")
    monkeypatch.setattr(rich_table, "Table", None)
    for row in ROWS:
        if row.command == name:
            run(row.line)


@pytest.mark.parametrize("row", [row for row in ROWS if row.command.split()[0] in ("summary", "doctor", "evaluate")],
                         ids=lambda row: row.command)  # fmt: skip
def test_no_color_is_heeded_on_a_terminal_and_tables_fit_it(row, run, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = run(row.line, Terminal)
    assert not re.search(r"\x1b\[[0-9;]*[34][0-7]m", out)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in out.splitlines()]
    assert [line for line in lines if len(line) > 80 and "  " in line] == []  # a sentence may be longer


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.command)
@pytest.mark.filterwarnings("default")
def test_long_work_says_how_long_and_how_to_stop(row, run, monkeypatch):
    """What is counted is counted against a total, which gives the time left, and the help says what Ctrl-C does."""
    totals, plain = [], progress.Progress

    class Counted(plain):
        def __init__(self, total, *rest, **more):
            totals.append(total)
            super().__init__(total, *rest, **more)

    for module in [module for name, module in sys.modules.items() if name.startswith("pyscratchdet")]:
        if getattr(module, "Progress", None) is plain:
            monkeypatch.setattr(module, "Progress", Counted)
    run(row.line, Terminal)
    assert bool(totals) == (row.command in LONG)
    assert None not in totals
    if totals:
        assert re.search(r"\nCtrl-C: \w[\w\s;,-]+\.\nExit status", parser_of(row).format_help())


def test_a_long_run_says_once_how_to_stop(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pyscratchdet.progress.time.monotonic", lambda: now[0])
    with progress.mannered(progress.Manners(interruption="stops; nothing is written")), progress.Progress(40) as done:
        for number in (1, 2, 3, 4):
            now[0] += 6
            done(number)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "about 4 min left; Ctrl-C: stops; nothing is written"
    assert len(lines) == 3
    assert "Ctrl-C" not in "".join(lines[1:])


def test_an_interrupted_command_says_what_that_means(monkeypatch, capsys, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyscratchdet.data.shapes.make_shapes", stop)
    assert main(["demo-data", str(tmp_path / "data")]) == 130
    assert capsys.readouterr().err == "pyscratchdet: interrupted: stops; nothing is written\n"


@pytest.mark.parametrize(("name", "parser"), PARSERS, ids=[name for name, _ in PARSERS])
def test_help_has_quiet_and_the_exit_statuses_and_fits(name, parser, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = parser.format_help()
    assert " ".join(text.split()).endswith(EXIT_STATUSES)
    assert re.search(rf"--quiet +{QUIET}\n", text)
    options = text.partition("\noptions:\n")[2].partition("\n\n")[0]
    assert max(map(len, options.splitlines())) <= 80


def test_a_flag_means_the_same_in_every_command():
    """One kind of value for each flag; what differs is listed with the reason, and nothing else is."""
    kinds = defaultdict(set)
    for _, parser in PARSERS:
        formatter = parser.formatter_class(parser.prog)
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and not action.choices:
                value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
                for flag in action.option_strings:
                    if flag.startswith("--") or len(flag) == 2:
                        kinds[flag].add(value.strip("[]") if action.nargs == "?" else value)
    differing = {flag: values for flag, values in kinds.items() if len(values) > 1}
    assert differing.keys() == DIFFERENT.keys(), differing


@pytest.mark.parametrize("flag", ["--rgb", "--allow-unknown", "--allow-python", "--schema", "--import", "--quiet"])
def test_shared_flags_are_described_in_the_same_words(flag):
    assert len({parser._option_string_actions[flag].help for _, parser in PARSERS if has_flag(parser, flag)}) == 1


def test_words_of_a_flag_may_be_joined_by_either_line():
    parser = dict(PARSERS)["lmdb"]
    found = parser.parse_args(["--skip-bad", "--label-map-file=a", "show", "b", "--label_map", "c", "-min-dim", "3"])
    assert (found.skip_bad, found.label_map_file, found.min_dim, found.words) == (True, "c", 3, ["show", "b"])


def test_a_process_of_its_own_ends_without_collecting_garbage():
    code = """if True:
        import atexit, gc, sys
        atexit.register(lambda: print(gc.get_freeze_count() > 0))  # runs after what the command registers
        from pyscratchdet.cli import main
        sys.argv = ["pyscratchdet", "--help"]
        main()"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
