"""Runs command lines one after the other and tells what each touched; test_access.py starts this as a program.

What Python opens, starts and connects to is seen by an audit hook. Libraries in C (LMDB, HDF5, OpenCV) do not pass it:
what they read is seen by inotify, what they write by the state of the folders before and after.
"""

import contextlib
import ctypes
import io
import json
import os
import struct
import sys
import traceback

WRITING = {"os.mkdir": [0], "os.remove": [0], "os.rmdir": [0], "os.rename": [0, 1], "os.link": [1], "os.symlink": [1],
           "os.truncate": [0], "os.chmod": [0], "os.chown": [0], "os.mkfifo": [0], "os.mknod": [0]}  # fmt: skip
FOLDER = {
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 2,
}  # which argument is the open folder that a path starts at, or -1
CONNECTING = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
              "socket.sendmsg", "urllib.Request", "http.client.connect"}  # fmt: skip
STARTING = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"}
IN_ACCESS, IN_OPEN, IN_ISDIR, IN_NONBLOCK = 0x1, 0x20, 0x40000000, 0o4000


class Watch:
    """What happens between `begin` and `end` in folders under `root`, and elsewhere."""

    def __init__(self, root, inputs):
        self.root, self.inputs, self.events = os.path.realpath(root), inputs, None
        self.own = tuple(os.path.realpath(path) for path in {sys.prefix, sys.base_prefix, *filter(None, sys.path)})
        sys.addaudithook(self._hook)
        libc = ctypes.CDLL(None, use_errno=True)
        self.inotify, self.folders = libc.inotify_init1(IN_NONBLOCK), {}
        for folder in inputs:
            for path, _, _ in os.walk(os.path.join(self.root, folder)):
                number = libc.inotify_add_watch(self.inotify, path.encode(), IN_OPEN | IN_ACCESS)
                assert number >= 0, os.strerror(ctypes.get_errno())
                self.folders[number] = path

    def _hook(self, event, arguments):
        if self.events is None:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in (mode or "") for letter in "wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            self._note("writes" if writes else "reads", path)
        elif event in WRITING:
            for index in WRITING[event]:
                self._note("writes", self._place(arguments[index], event, arguments))
        elif event in CONNECTING:
            self.events["connects"].add(f"{event} {arguments[-1] if event.startswith('socket') else arguments[0]!r}")
        elif event in STARTING:
            program = arguments[0] if event != "subprocess.Popen" else arguments[0] or arguments[1][0]
            self.events["starts"].add(os.path.basename(os.fsdecode(program)) if arguments else event)

    @staticmethod
    def _place(path, event, arguments):
        """Returns a path that an open folder's number goes with from the root."""
        folder = arguments[FOLDER[event]] if event in FOLDER else -1
        return path if folder == -1 else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))

    def _note(self, kind, path):
        if isinstance(path, int) or path is None:
            return
        path = os.path.realpath(os.fsdecode(path))
        if os.path.basename(path).startswith("__editable__"):  # asked by importlib for pip's hook
            return
        if path.startswith(self.root + os.sep):
            self.events[kind].add(os.path.relpath(path, self.root))
        elif path.startswith("/dev/"):  # memory shared with workers, /dev/null
            return
        elif kind == "writes" or not path.startswith((*self.own, "/usr/", "/lib", "/proc/", "/sys/")):
            self.events[kind].add(path)

    def _state(self):
        state = {}
        for folder, names, files in os.walk(self.root):
            for name in names + files:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                state[path] = "folder" if name in names else (status.st_ino, status.st_size, status.st_mtime_ns)
        return state

    def begin(self):
        self._drain()
        self.before = self._state()
        self.events = {kind: set() for kind in ("reads", "writes", "connects", "starts")}

    def end(self):
        events, self.events = self.events, None
        after = self._state()
        changed = {path for path in self.before.keys() | after.keys() if self.before.get(path) != after.get(path)}
        events["writes"] |= {os.path.relpath(path, self.root) for path in changed}
        events["reads"] |= self._drain()
        events["writes"] = {path for path in events["writes"] if self.is_left(path, after)}
        return {kind: sorted(paths) for kind, paths in events.items()}

    def is_left(self, path, after):
        """A file that was made and is gone again counts only outside the folders made for output."""
        place = os.path.join(self.root, path)
        return place in after or place in self.before or not path.startswith(("out/", "tmp/"))

    def _drain(self):
        found = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.inotify, 1 << 20):
                while data:
                    number, mask, _, length = struct.unpack_from("iIII", data)
                    name = data[16 : 16 + length].rstrip(b"\0").decode()
                    if name and not mask & IN_ISDIR:
                        found.add(os.path.relpath(os.path.join(self.folders[number], name), self.root))
                    data = data[16 + length :]
        return found


def run(command_line, words, watch, pipe):
    """Runs one command line in this forked process and writes what it touched to the pipe."""
    printed = io.StringIO()
    watch.begin()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = command_line(words)
        except SystemExit as error:
            status = error.code
        except BaseException:
            status = traceback.format_exc()
    with os.fdopen(pipe, "w") as file:
        json.dump({**watch.end(), "status": status, "printed": printed.getvalue()}, file)


def main():
    root, inputs, lines = json.load(sys.stdin)
    os.chdir(root)
    # Imported once here; each command then runs in a fork of this process, which has opened nothing yet.
    import cv2  # noqa: F401
    import matplotlib.font_manager  # noqa: F401 - lists the fonts and keeps the list, at its first use
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401

    from pyscratchdet.cli import main as command_line

    watch, results = Watch(root, inputs), []
    for words in lines:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            run(command_line, words, watch, writer)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            results.append(json.loads(file.read()))
        os.waitpid(child, 0)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
