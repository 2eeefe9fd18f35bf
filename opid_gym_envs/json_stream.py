"""JSON files read one element at a time: the largest are far larger than what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from json import JSONDecodeError, JSONDecoder
from typing import IO, Any, NoReturn, TypeVar

T = TypeVar("T")

_CHUNK = 1 << 20
_LONGEST_ELEMENT = 1 << 24  # characters; text that is no element by then is taken for broken


class JSONStream:
    r"""Takes JSON off a text file with the decoder of the standard library.

    Args:
        file: open for reading text.
        name: of the file, for errors.
        form: what is expected of the file, for errors.

    Attributes:
        number: of the element being taken, or taken last; from 0, and -1 before the first.

    >>> import io
    >>> list(JSONStream(io.StringIO("[1, [2],\n{}]"), "here").array())
    [1, [2], {}]
    >>> list(JSONStream(io.StringIO('{"a": 1}\n{"b": 2}'), "here").values())
    [{'a': 1}, {'b': 2}]
    """

    def __init__(self, file: IO[str], name: str, form: str = "JSON") -> None:
        self._file, self._name, self._form = file, name, form
        self._decode = JSONDecoder().raw_decode
        self._text, self._place, self.number = "", 0, -1

    def array(self) -> Iterator[Any]:
        """The elements of an array, which is all that the file holds.

        Raises:
            ValueError: the file is not one JSON array; the message names the file and the element.
        """
        return self._elements("[]", self._value)

    def object(self) -> Iterator[tuple[str, Any]]:
        """The entries of an object, which is all that the file holds.

        Raises:
            ValueError: the file is not one JSON object; the message names the file and the entry.
        """
        return self._elements("{}", self._entry)

    def values(self) -> Iterator[Any]:
        """Values that follow one another, with white space between them, however they are indented.

        Raises:
            ValueError: something is not a value; the message names the file and the value's number.
        """
        while not self._at_end():
            self.number += 1
            yield self._value()

    def _elements(self, brackets: str, take: Callable[[], T]) -> Iterator[T]:
        self._expect(brackets[0])
        over = self._accept(brackets[1])
        while not over:
            self.number += 1
            yield take()
            over = self._accept(brackets[1])
            if not over:
                self._expect(",")
        if not self._at_end():
            self._fail(f"there is more after the end: {self._text[self._place : self._place + 20]!r}")

    def _accept(self, sign: str) -> bool:
        self._skip_space()
        if self._text.startswith(sign, self._place):
            self._place += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            self._fail(f"expected {sign!r}, found {self._text[self._place : self._place + 20]!r}")

    def _entry(self) -> tuple[str, Any]:
        key = self._value()
        if not isinstance(key, str):
            self._fail(f"expected a key, found {key!r}")
        self._expect(":")
        return key, self._value()

    def _at_end(self) -> bool:
        self._skip_space()
        return self._place >= len(self._text)

    def _value(self) -> Any:
        self._skip_space()
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except JSONDecodeError as error:
                if len(self._text) - self._place > _LONGEST_ELEMENT or not self._more():
                    self._fail(error.msg)
            except RecursionError:
                self._fail("nested too deeply")
            else:
                if end < len(self._text) or not self._more():  # a number could go on
                    self._place = end
                    return value

    def _skip_space(self) -> None:
        while True:
            while self._place < len(self._text) and self._text[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._text) or not self._more():
                return

    def _more(self) -> bool:
        # As much again as there is, so that a long element is not looked at over and over.
        read = self._read(max(_CHUNK, len(self._text) - self._place))
        self._text, self._place = self._text[self._place :] + read, 0
        return bool(read)

    def _read(self, size: int) -> str:
        try:
            return self._file.read(size)
        except UnicodeDecodeError as error:
            self._fail(f"not UTF-8: {error.reason}")

    def _fail(self, what: str) -> NoReturn:
        raise ValueError(f"{self._name}: not {self._form} near element {max(self.number, 0)}: {what}")
