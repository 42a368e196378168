from __future__ import annotations

import json

import pytest

from hgwire_wsgi import CommandRegistry
from hgwire_wsgi.cli import main


def test_json_is_the_whole_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["commands", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == CommandRegistry.standard().describe()


def test_columns_show_permission_and_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["commands"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows.keys() == CommandRegistry.standard().keys()
    assert rows["heads"] == ["pull"]
    assert rows["pushkey"] == ["push", "namespace", "key", "old", "new"]
    assert rows["known"] == ["pull", "nodes", "*"]
    assert "[common]" in rows["getbundle"]
    assert len({line.index("pull") for line in lines if " pull" in line}) == 1, "the columns are aligned"
