"""The one progress line: a bar on a terminal, lines now and then elsewhere."""

import io
import sys
from contextlib import redirect_stderr, suppress

import pytest

from pyscratchdet.progress import Progress


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
            progress(3, "loss [/b] 0.5")
        assert sys.stderr is terminal
    shown = terminal.getvalue()
    assert "[/b]atches" in shown
    assert "loss [/b] 0.5" in shown
    assert shown.index("a [/b] line") < shown.index("a warning") < shown.rindex("3/3")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


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
