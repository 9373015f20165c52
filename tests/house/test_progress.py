"""The one progress line: a bar on a terminal, lines now and then elsewhere."""

import io
import re
import sys
from contextlib import redirect_stderr, suppress

import pytest

from pyscratchdet.progress import Progress, duration_text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _size(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    """A line now and then, so that logs of long runs are short, and nothing for a short run."""
    now = [100.0]
    monkeypatch.setattr("pyscratchdet.progress.time.monotonic", lambda: now[0])
    with Progress(40) as progress, Progress(None, "frames") as endless:
        for done in (1, 2, 3, 4):
            now[0] += 4
            progress(done)
        endless(8)
    assert capsys.readouterr().err.splitlines() == [
        "3/40 pictures, 0.2 per second, 148 s left",
        "8 frames, 0.5 per second",
    ]


def test_a_bar_on_a_terminal():
    with redirect_stderr(Terminal()) as terminal:
        with Progress(3, "[/b]atches") as progress:
            progress(1)
            progress.print("a [/b] line")
            print("a warning", file=sys.stderr)
            progress(3, ["loss [/b] 0.5"])
        assert sys.stderr is terminal
    shown = terminal.getvalue()
    assert "[/b]atches" in shown
    assert "loss [/b] 0.5" in shown
    assert shown.index("a [/b] line") < shown.index("a warning") < shown.rindex("3/3")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


@pytest.mark.parametrize(
    ("columns", "shown", "left_out"),
    [
        (100, ["iterations", "━" * 20, "loss 1.235  lr 0.0125  12.3 images/s", "3 h 20 min left"], ["data"]),
        (80, ["iterations", "loss 1.235  lr 0.0125", "3 h 20 min left"], ["images/s"]),
        (50, ["iterations", "1200/120000", "3 h 20 min left"], ["━", "loss"]),
        (38, ["1200/120000", "3 h 20 min left"], ["━", "iterations"]),
    ],
)  # fmt: skip
def test_a_bar_takes_one_line_however_narrow_the_terminal(monkeypatch, columns, shown, left_out):
    monkeypatch.setenv("COLUMNS", str(columns))
    with redirect_stderr(Terminal()) as terminal, Progress(120000, "iterations") as progress:
        progress(1200, ["loss 1.235", "lr 0.0125", "12.3 images/s", "data"], 12000)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").split("\n")
    lines = [line for line in last if line.strip()]
    assert all(len(line) <= columns for line in lines)
    assert all("1200/120000" in line or " 0/120000" in line for line in lines)  # none is the rest of another
    assert all(text in lines[-1] for text in shown), lines[-1]
    assert not any(text in lines[-1] for text in left_out)


def test_a_line_says_the_time_left_that_it_is_given(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pyscratchdet.progress.time.monotonic", lambda: now[0])
    with Progress(40, "iterations") as progress:
        now[0] += 12
        progress(3, (), 500.4)
    assert capsys.readouterr().err == "3/40 iterations, 0.2 per second, 500 s left\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (23 * 60 + 20, "23 min"),
        (90 * 60, "1 h 30 min"),
        (47.9 * 3600, "47 h 54 min"),
        (53.2 * 3600, "2 d 5 h"),
    ],
)
def test_durations_are_said_in_two_units_at_most(seconds, text):
    assert duration_text(seconds) == text


def test_the_terminal_is_given_back_after_an_error():
    with redirect_stderr(Terminal()) as terminal:
        with suppress(KeyboardInterrupt), Progress(None) as progress:
            progress(7)
            raise KeyboardInterrupt
        assert sys.stderr is terminal
    assert "7/?" in terminal.getvalue()


def test_standard_output_stays_where_it_goes(capsys):
    with redirect_stderr(Terminal()), Progress(2) as progress:
        progress(1)
        print('{"mAP": 1}')
    assert capsys.readouterr().out == '{"mAP": 1}\n'
