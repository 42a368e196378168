from __future__ import annotations

import argparse
import importlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import environment

from hgwire_wsgi import __version__, cli
from hgwire_wsgi.cli import SUBCOMMANDS, CommandLineError, Subcommand, main
from hgwire_wsgi.errors import HgWireError


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_a_module_with_both_functions(name: str) -> None:
    module = importlib.import_module(f"hgwire_wsgi.cli.{SUBCOMMANDS[name].module}")
    parser = argparse.ArgumentParser()
    module.configure(parser)
    assert callable(module.run)
    assert module.run.__doc__ and module.configure.__doc__


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, subcommand in SUBCOMMANDS.items():
        assert name in printed
        assert subcommand.summary in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"hgwire {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["commands", "--nonsense"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: hgwire" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (CommandLineError("no can do", code=1), 1, "hgwire: no can do\n"),
        (CommandLineError("no can do", code=2), 2, "hgwire: no can do\n"),
        (HgWireError("no such server"), 1, "hgwire: no such server\n"),
        (OSError("no such file"), 2, "hgwire: no such file\n"),
        (FileNotFoundError(2, "No such file or directory", "a"), 2, "hgwire: a: No such file or directory\n"),
        (OSError(18, "Cross-device link", b"a", None, "b"), 2, "hgwire: a: b: Cross-device link\n"),
        (OSError(9, "Bad file descriptor", 3), 2, "hgwire: Bad file descriptor\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    raised: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Failing:
        @staticmethod
        def configure(parser: Any) -> None:
            pass

        @staticmethod
        def run(args: Any) -> int:
            raise raised

    monkeypatch.setitem(SUBCOMMANDS, "fail", Subcommand("fail", "fail"))
    monkeypatch.setattr(cli.importlib, "import_module", lambda name, package: Failing)
    assert main(["fail"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("> /dev/full", 2, "hgwire: No space left on device\n"),
        (">&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written(where: str, code: int, said: str) -> None:
    command = f"{sys.executable} -m hgwire_wsgi commands {where}"
    done = subprocess.run(["bash", "-c", command], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("command", ["call", "probe"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e300", "soon"])
def test_a_timeout_must_be_a_number_of_seconds(command: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([command, "http://127.0.0.1:1/", *(["heads"] * (command == "call")), f"--timeout={value}"])
    assert f"argument --timeout: not a number of seconds: '{value}'" in capsys.readouterr().err


def test_a_timeout() -> None:
    parser = argparse.ArgumentParser()
    cli.add_timeout(parser, 60)
    assert parser.parse_args([]).timeout == 60
    assert parser.parse_args(["--timeout", "0.5"]).timeout == 0.5
    assert "give up after this many seconds without data (default: 60)" in " ".join(parser.format_help().split())


def test_input_is_a_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"input")))
    for name, content in ((str(tmp_path / "file"), b"file"), ("-", b"input")):
        with cli.open_input(name) as stream:
            assert stream.read() == content
    assert not sys.stdin.buffer.closed


class Full(io.StringIO):
    """An output that takes no more, and is not of the kind that Python opens for a process."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_output_that_cannot_be_flushed_goes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(tmp_path / "output", "wb") as output:
        monkeypatch.setattr(sys, "stdout", Full(output.fileno()))
        assert main(["commands"]) == 2
        output.write(b"lost")
        output.flush()
    assert capsys.readouterr().err == "hgwire: No space left on device\n"
    assert (tmp_path / "output").read_bytes() == b""


def test_only_the_named_subcommand_is_imported() -> None:
    program = (
        "import sys\n"
        "from hgwire_wsgi.cli import main\n"
        "main(['commands'])\n"
        "sys.exit(' '.join({'gunicorn', 'mercurial', 'webob', 'hgwire_wsgi.cli.serve'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hgwire_wsgi", "--version"], env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"hgwire {__version__}\n")
