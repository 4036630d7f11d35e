import pytest

from vit_lightning.console import printable, printable_lines, say, say_notes


def test_what_cannot_be_seen_is_escaped() -> None:
    assert printable("蜂 é.png") == "蜂 é.png"
    assert printable("a\nb\x1b[31m\udce9.png") == r"a\nb\x1b[31m\udce9.png"
    assert printable_lines("one\n  two\r\x1b[2J\n") == "one\n  two" + r"\r\x1b[2J" + "\n"


def test_what_is_said_cannot_change_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("left out: a\x1b[31m.png\nnext")
    say_notes(["b\x07"])
    printed = capsys.readouterr()
    assert printed.out == r"left out: a\x1b[31m.png" + "\nnext\n"
    assert printed.err == r"note: b\x07" + "\n"
