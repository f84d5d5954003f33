"""What runs the blocks of pages notices when a block does not do what its page says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks, languages
from tests.docs.terminal import Terminal, expect

SERVER = """# lines.py
import pathlib, signal, sys, time

signal.signal(signal.SIGINT, lambda number, frame: sys.exit(0))
print("listening on", flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.01)
print("went", flush=True)
time.sleep(60)
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.stop()


@pytest.mark.parametrize("output", ["b\na\n", "a b c d\n", "x…y\n", "a\n"])
def test_lines_that_are_not_printed_or_in_another_order_are_noticed(output: str) -> None:
    with pytest.raises(AssertionError):
        expect(output, "a b c\nb\n")


@pytest.mark.parametrize("output", ["", "a b c\nb\n", "a … c\n", "…c\n", "b"])
def test_lines_that_are_printed_pass(output: str) -> None:
    expect(output, "  a  b c \nanother\nb\n")


def test_a_block_that_fails_is_noticed(terminal: Terminal) -> None:
    with pytest.raises(AssertionError, match="no such thing"):
        terminal.run(Block("bash", "echo no such thing\nfalse\n"))


def test_a_python_block_becomes_the_file_that_it_names(terminal: Terminal) -> None:
    terminal.run(Block("python", "# hello.py\nprint('hello')\n"))
    terminal.run(Block("bash", "python hello.py\n", "hello\n"))
    with pytest.raises(AssertionError, match=r"name\.py"):
        terminal.run(Block("python", "print('hello')\n"))


def test_a_program_that_is_forked_is_a_main_program_in_its_folder_with_its_arguments_and_status(
    terminal: Terminal,
) -> None:
    terminal.run(Block("python", "# beside.py\nNAME = 'beside'\n"))
    main = "import pickle, sys, beside\nclass Own: pass\nprint(__name__, __file__, sys.argv, beside.NAME)\n"
    terminal.run(Block("python", f"# whole.py\n{main}print(type(pickle.loads(pickle.dumps(Own()))))\nsys.exit(3)\n"))
    said = "__main__ whole.py ['whole.py', '-x'] beside\n<class '__main__.Own'>\nended with 3\n"
    terminal.run(Block("bash", "python whole.py -x || echo ended with $?\n", said))
    code = "import sys; print(sys.argv, sys.prefix)"
    terminal.run(Block("bash", f"python -c '{code}' y\n", f"['-c', 'y'] {sys.prefix}\n"))


def test_pytest_that_is_forked_shows_what_an_assertion_compared(terminal: Terminal) -> None:
    terminal.run(Block("python", "# test_sums.py\ndef test_it():\n    assert 1 + 1 == len('abc')\n"))
    said = "E       AssertionError: assert (1 + 1) == 3\n1 failed in …\nended with 1\n"
    terminal.run(Block("bash", "pytest -q test_sums.py || echo ended with $?\n", said))


def test_ports_are_exchanged_alike_in_all_blocks_of_a_page(terminal: Terminal) -> None:
    terminal.run(Block("bash", "echo 127.0.0.1:50061 localhost:50061 > ports\n"))
    terminal.run(Block("bash", "echo 0.0.0.0:50061 127.0.0.1:50062 localhost:50051 127.0.0.1:9 >> ports\n"))
    first, second, third, other, usual, low = (terminal.work / "ports").read_text().split()

    assert first.partition(":")[2] == second.partition(":")[2] == third.partition(":")[2] != "50061"
    assert other.partition(":")[2] not in ("50062", first.partition(":")[2])
    assert (usual, low) == ("localhost:50051", "127.0.0.1:9")


def test_an_output_block_belongs_to_the_block_before_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nls\n```\n\ntext\n\n```output\na\n```\n\n```text\npicture\n```\n\n```yaml\na: 1\n```\n")

    assert blocks(page) == [Block("bash", "ls\n", "a\n")]
    assert languages(page) == {"bash", "output", "text", "yaml"}


def test_a_second_output_block_is_what_the_server_prints(terminal: Terminal, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nls\n```\n\n```output\na\n```\n\n```output\nb\n```\n")
    (block,) = blocks(page)
    assert (block.output, block.served) == ("a\n", "b\n")

    terminal.run(Block("python", SERVER))
    terminal.run(Block("bash", "python lines.py\n", "listening on\n"))
    terminal.run(Block("bash", "touch go\n", "", "went\n"))
