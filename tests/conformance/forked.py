# SPDX-License-Identifier: Apache-2.0
"""Command lines for one process that has started (forked.c): its children run them."""
import os
import signal
import socket
import subprocess
import tempfile


class Forked:
    def __init__(self, program):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen([program], stdin=theirs, start_new_session=True)

    def run(self, argv, stdin, timeout):
        """As subprocess.run does it, with the outputs captured."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            files = [stdin.fileno(), out.fileno(), error.fileno()]
            words = b"".join(os.fsencode(word) + b"\0" for word in argv)
            socket.send_fds(self.socket, [words], files)
            self.socket.settimeout(timeout)
            try:
                answer = self.socket.recv(4)
            except ConnectionError:
                answer = b""
            except TimeoutError:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise subprocess.TimeoutExpired(argv, timeout) from None
            if len(answer) != 4:
                raise ConnectionError(f"{self.process.args[0]} has ended: {self.process.wait()}")
            out.seek(0)
            error.seek(0)
            status = int.from_bytes(answer, "little", signed=True)
            return subprocess.CompletedProcess(argv, status, out.read(), error.read())

    def alive(self):
        return self.process.poll() is None

    def close(self):
        self.socket.close()
        return self.process.wait()
