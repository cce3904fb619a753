# SPDX-License-Identifier: Apache-2.0
"""What a call raises: one class with the library's status and message, and its kinds."""
from __future__ import annotations

from ._abi import Status


class Error(Exception):
    """A call failed. `status` is the library's (tailcut.Status), `message` names what was wrong."""

    def __init__(self, status: int, message: str) -> None:
        self.status = Status(status)
        self.message = message
        super().__init__(f"{message} ({self.status.name})")

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (int(self.status), self.message)


class ArgumentError(Error, ValueError):
    """An argument is wrong; nothing was written."""


class UnsupportedError(Error, NotImplementedError):
    """The arguments are valid, but this backend or build does not take one of them."""


class LoadError(Error, OSError):
    """No native library that fits this package. `tried` lists each path and why it was not
    taken."""

    def __init__(self, message: str, tried: tuple[str, ...] = ()) -> None:
        self.tried = tried
        super().__init__(Status.ERROR_VERSION, message)

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...]]]:  # type: ignore[override]
        return type(self), (self.message, self.tried)


def error(status: int, message: str) -> Error:
    """The exception for a status."""
    kind = {1: ArgumentError, 2: UnsupportedError}.get(status // 100, Error)
    return kind(status, message)


def conflict(message: str) -> ArgumentError:
    return ArgumentError(Status.ERROR_CONFLICT, message)


def out_of_range(message: str) -> ArgumentError:
    return ArgumentError(Status.ERROR_RANGE, message)


def unknown_value(message: str) -> ArgumentError:
    return ArgumentError(Status.ERROR_ENUM, message)


def unsupported(message: str) -> UnsupportedError:
    return UnsupportedError(Status.ERROR_UNSUPPORTED, message)
