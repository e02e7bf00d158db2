"""What others wrote cannot steer the terminal of whoever reads it: in errors, tables, and the words of a guest."""

import pytest

from commands.browse import print_table
from darkroom.errors import DarkroomError
from darkroom.printable import printable

EVIL = "a\x1b[31mb\x1b]0;title\x07c\x9b2Jd\r\u202ee\x00"


def test_neither_errors_nor_tables_print_control_characters(capsys):
    error = DarkroomError("image", "", EVIL)

    print_table([{"name": EVIL, "properties": {"os": EVIL}}], ("name", "properties"))

    for text in (str(error), *capsys.readouterr().out.splitlines()):
        assert text.isprintable()
    assert "ab]0;title" in str(error)


@pytest.mark.parametrize("text", ["", "login:", "Größe 10 µs – “ok”", "日本語"])
def test_what_people_write_stays_as_it_is(text):
    assert printable(text) == text


def test_a_serial_port_keeps_its_lines():
    assert printable("one\r\n\x1b[1;32mtwo\x1b[0m\ttabbed\n", kept="\n") == "one\ntwotabbed\n"
