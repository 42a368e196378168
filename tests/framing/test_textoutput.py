"""Text output; the limits of the encoder are in the recorded vectors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import LocalProtocolError, RemoteProtocolError
from hgwire_wsgi.framing import Atom, decode_atoms, encode_atoms

UTF8 = st.text(max_size=8).map(lambda text: text.encode())
ASCII = st.text(st.characters(max_codepoint=127), max_size=8).map(lambda text: text.encode())
ATOMS = st.lists(st.builds(Atom, UTF8, st.lists(UTF8, max_size=4), st.lists(ASCII, max_size=4)), max_size=5)


@given(ATOMS)
def test_round_trip(atoms: list[Atom]) -> None:
    assert decode_atoms(encode_atoms(atoms, 65535)) == tuple(atoms)


@given(ATOMS.filter(bool))
def test_every_truncation_is_an_error_or_fewer_atoms(atoms: list[Atom]) -> None:
    payload = encode_atoms(atoms, 65535)
    for size in range(len(payload)):
        try:
            found = decode_atoms(payload[:size])
        except RemoteProtocolError as error:
            assert error.message.startswith("malformed text output: partial ")
        else:
            assert found == tuple(atoms)[: len(found)]


@given(st.binary(max_size=60))
def test_any_payload(payload: bytes) -> None:
    try:
        atoms = decode_atoms(payload)
    except RemoteProtocolError:
        return
    # What decodes holds every byte of the payload.
    size = sum(
        4
        + len(atom.formatting)
        + sum(len(label) + 1 for label in atom.labels)
        + sum(len(a) + 2 for a in atom.arguments)
        for atom in atoms
    )
    assert size == len(payload)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x01\x00\x00", "partial atom"),
        (b"\x00\x00\x02\x00\x01", "partial atom"),
        (b"\x00\x00\x00\x01\x01", "partial atom"),
        (b"\x02\x00\x00\x00x", "partial string"),
        (b"\x00\x00\x01\x00\x02l", "partial string"),
    ],
)
def test_malformed(payload: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"malformed text output: {message}"):
        decode_atoms(payload)


def test_replaced_bytes_count() -> None:
    # Two bytes that are no UTF-8 become six.
    assert decode_atoms(encode_atoms([Atom(b"\xff\xfe")], 10)) == (Atom(b"\xef\xbf\xbd" * 2),)
    with pytest.raises(LocalProtocolError, match="single frame"):
        encode_atoms([Atom(b"\xff\xfe")], 9)
    with pytest.raises(LocalProtocolError, match="ASCII"):
        encode_atoms([Atom(b"x", labels=[b"\xff"])], 100)


@pytest.mark.parametrize("atoms", [None, 5, [b"text"], "text"])
def test_only_atoms_are_text(atoms: Any) -> None:
    with pytest.raises(LocalProtocolError, match="atoms"):
        encode_atoms(atoms, 100)


@pytest.mark.parametrize(
    ("atom", "text"),
    [
        (Atom(b"plain"), b"plain"),
        (Atom(b"%s of %s", [b"1", b"2"]), b"1 of 2"),
        (Atom(b"100%% of %s", [b"%s"]), b"100% of %s"),
        (Atom(b"%s and %s", [b"one"]), b"one and %s"),
        (Atom(b"none", [b"lost"]), b"none"),
        (Atom(b"%d %", [b"x"]), b"%d %"),
    ],
)
def test_render(atom: Atom, text: bytes) -> None:
    assert atom.render() == text
