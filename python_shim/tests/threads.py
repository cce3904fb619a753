# SPDX-License-Identifier: Apache-2.0
"""Threads of tests."""
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


def all_at_once(work, arguments):
    """Whether work(argument) is true for all of them, each in a thread of its own, begun together.
    What one raises is raised here."""
    begin = Barrier(len(arguments))

    def run(argument):
        begin.wait()
        return work(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return all(list(pool.map(run, arguments)))
