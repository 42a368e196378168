"""The backend in memory, as commands see it."""

from __future__ import annotations

import bz2
import hashlib
import io
import threading
import zlib
from collections.abc import Iterable
from typing import Any

import pytest

from hgwire_wsgi.commands.objects import NULL
from hgwire_wsgi.commands.responses import PushError, PushResponse, Response, StreamResponse
from hgwire_wsgi.errors import CommandFailed, DecodeError, InvalidArgument, RepositoryNotFound
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

UNKNOWN = b"\x11" * 20


def joined(response: Response) -> bytes:
    assert isinstance(response, StreamResponse)
    return b"".join(response.chunks)


def bundle(repository: MemoryRepository, **arguments: Any) -> bytes:
    return joined(repository.getbundle(**arguments))


def push(repository: MemoryRepository, data: bytes, heads: Iterable[bytes] = (b"force",)) -> Response:
    return repository.unbundle(list(heads), io.BytesIO(data), "remote:http::")


def history(size: int = 3) -> MemoryRepository:
    repository = MemoryRepository()
    for number in range(size):
        repository.commit({"file": b"%d\n" % number}, message=f"change {number}")
    return repository


class TestCommit:
    def test_contents(self) -> None:
        repository = MemoryRepository()
        first = repository.commit({"a": b"1", "dir/b": b"\1\nmarked", "c": b"3"})
        second = repository.commit({"a": b"2", "c": None, "never there": None})
        assert repository.files(first) == {"a": b"1", "dir/b": b"\1\nmarked", "c": b"3"}
        assert repository.files(second) == {"a": b"2", "dir/b": b"\1\nmarked"}
        assert repository.files(NULL) == {}
        assert repository.parents(second) == (first, NULL) and repository.heads() == [second]

    def test_merge(self) -> None:
        repository = MemoryRepository()
        base = repository.commit({"same": b"0", "left": b"0", "gone": b"0"})
        left = repository.commit({"left": b"1", "both": b"l"}, parents=[base])
        right = repository.commit({"right": b"1", "both": b"r", "gone": None}, parents=[base])
        merge = repository.commit({"both": b"lr", "right": b"2"}, parents=[left, right])
        assert repository.parents(merge) == (left, right)
        expected = {"same": b"0", "left": b"1", "right": b"2", "gone": b"0", "both": b"lr"}
        assert repository.files(merge) == expected
        assert MemoryRepository.from_bundle(io.BytesIO(bundle(repository))).files(merge) == expected

    def test_same_changeset_twice(self) -> None:
        repository = MemoryRepository()
        nodes = {repository.commit({"a": b"1"}, parents=[]) for _ in range(2)}
        assert repository.heads() == list(nodes)

    def test_unknown_parent(self) -> None:
        repository = MemoryRepository()
        state = repository.content_token()
        with pytest.raises(CommandFailed, match="unknown revision '1111"):
            repository.commit(parents=[UNKNOWN])
        assert repository.content_token() == state and repository.heads() == [NULL]


class TestState:
    def test_changes_with_every_change(self) -> None:
        repository, states = MemoryRepository(), []

        def seen() -> bool:
            states.append(repository.content_token())
            return len(set(states)) == len(states)

        assert seen()
        node = repository.commit()
        assert seen()
        repository.pushkey(b"bookmarks", b"b", b"", node.hex().encode())
        assert seen()
        push(repository, bundle(history()))
        assert seen()

    def test_stays_without_one(self) -> None:
        repository = history()
        state = repository.content_token()
        assert repository.pushkey(b"bookmarks", b"b", b"old", b"").success
        assert not repository.pushkey(b"bookmarks", b"b", b"old", UNKNOWN.hex().encode()).success
        repository.pushkey(b"phases", b"", b"", b"")
        push(repository, b"garbage")
        push(repository, bundle(history()), [UNKNOWN])
        repository.snapshot().heads()
        assert repository.content_token() == state

    def test_two_repositories_never_have_the_same(self) -> None:
        assert MemoryRepository().content_token() != MemoryRepository().content_token()


class TestQuestions:
    def test_heads_newest_first(self) -> None:
        repository = MemoryRepository()
        first, second, third = (repository.commit({"a": name}, parents=[]) for name in (b"1", b"2", b"3"))
        assert repository.heads() == [third, second, first]
        assert MemoryRepository().heads() == [NULL]

    def test_parents_and_known(self) -> None:
        repository = history()
        assert repository.parents(NULL) == (NULL, NULL)
        with pytest.raises(CommandFailed, match=f"unknown revision '{UNKNOWN.hex()}'"):
            repository.parents(UNKNOWN)
        assert repository.known([NULL, UNKNOWN, *repository.heads()]) == [True, False, True]

    def test_branchmap(self) -> None:
        repository = MemoryRepository()
        base = repository.commit({"a": b"0"})
        first = repository.commit({"a": b"1"}, parents=[base])
        closed = repository.commit({"b": b"1"}, parents=[base], close=True)
        other = repository.commit({"c": b"1"}, parents=[first], branch="täst")
        back = repository.commit({"d": b"1"}, parents=[other], branch="default")
        assert repository.branchmap() == {b"default": [closed, back], "täst".encode(): [other]}
        assert MemoryRepository().branchmap() == {}

    def test_branch_names_with_every_byte_that_is_escaped(self) -> None:
        repository = MemoryRepository()
        node = repository.commit(branch="a:\\n\n\r\0\\0 b", close=True)
        copy = MemoryRepository.from_bundle(io.BytesIO(bundle(repository)))
        assert copy.branchmap() == repository.branchmap() == {b"a:\\n\n\r\0\\0 b": [node]}

    def test_settings(self) -> None:
        repository = MemoryRepository(settings={"web.allow-push": "ann, bob"})
        assert repository.setting("web", "allow-push") == "ann, bob"
        assert repository.settings("web", "allow-push") == ["ann", "bob"]
        assert repository.setting("web", "push_ssl") is None
        assert MemoryRepository().setting("web", "allow-push") is None

    def test_what_is_not_offered(self) -> None:
        tokens = {token.partition(b"=")[0] for token in MemoryRepository().capabilities()}
        assert not tokens & {b"bundle2", b"stream", b"streamreqs"}


class TestLookup:
    @pytest.fixture
    def repository(self) -> MemoryRepository:
        repository = history(30)
        return repository

    def nodes(self, repository: MemoryRepository) -> list[bytes]:
        return [repository.lookup(b"%d" % number) for number in range(30)]

    def test_numbers(self, repository: MemoryRepository) -> None:
        nodes = self.nodes(repository)
        assert len(set(nodes)) == 30
        assert repository.lookup(b"-1") == repository.lookup(b"29") == repository.lookup(b"tip") == nodes[29]
        assert repository.lookup(b"-30") == nodes[0]

    @pytest.mark.parametrize(
        "key", [b"30", b"-31", b"+1", b"01x", b"-0", b"9" * 5000, b"\xd9\xa3", b"nosuch", b"a" * 41]
    )
    def test_unknown(self, repository: MemoryRepository, key: bytes) -> None:
        with pytest.raises(CommandFailed) as caught:
            repository.lookup(key)
        assert caught.value.message.encode("utf-8", "surrogateescape") == b"unknown revision '%s'" % key

    def test_special_names(self, repository: MemoryRepository) -> None:
        assert repository.lookup(b"null") == repository.lookup(b".") == repository.lookup(b"0" * 40) == NULL
        assert MemoryRepository().lookup(b"tip") == NULL

    def test_hashes(self, repository: MemoryRepository) -> None:
        for node in self.nodes(repository):
            digits = node.hex().encode()
            assert repository.lookup(digits) == repository.lookup(digits.upper()) == node
            assert repository.lookup(digits[:39]) == repository.lookup(digits[:20]) == node
        assert repository.lookup(b"0000000000") == NULL
        with pytest.raises(CommandFailed, match="unknown revision"):
            repository.lookup(UNKNOWN.hex().encode())

    def test_ambiguous(self, repository: MemoryRepository) -> None:
        firsts = [node.hex()[0] for node in self.nodes(repository)]
        letter = next(each for each in "abcdef" if firsts.count(each) > 1)
        with pytest.raises(CommandFailed, match=f"^00changelog@{letter}: ambiguous identifier$"):
            repository.lookup(letter.encode())
        with pytest.raises(CommandFailed, match=r"^00changelog@: ambiguous identifier$"):
            repository.lookup(b"")

    def test_names_and_who_goes_first(self, repository: MemoryRepository) -> None:
        nodes = self.nodes(repository)
        assert repository.lookup(b"default") == nodes[29]
        tagged = repository.commit(
            {".hgtags": b"%s default\n%s v 1\n" % (nodes[1].hex().encode(), nodes[2].hex().encode())}
        )
        assert repository.lookup(b"default") == nodes[1] and repository.lookup(b"v 1") == nodes[2]
        repository.pushkey(b"bookmarks", b"default", b"", nodes[3].hex().encode())
        assert repository.lookup(b"default") == nodes[3]
        repository.pushkey(b"bookmarks", b"5", b"", nodes[3].hex().encode())
        assert repository.lookup(b"5") == nodes[5] and repository.lookup(b"tip") == tagged

    def test_tags(self, repository: MemoryRepository) -> None:
        digits = [node.hex().encode() for node in self.nodes(repository)]
        removed = b"%s a\n%s b\n%s b\n%s c\n%s d\nzz e\nf\n" % (
            *digits[:2],
            b"0" * 40,
            UNKNOWN.hex().encode(),
            digits[3],
        )
        repository.commit({".hgtags": removed})
        repository.commit({".hgtags": b"%s d\n" % digits[4]}, parents=[])
        assert repository.lookup(b"a").hex().encode() == digits[0]
        assert repository.lookup(b"d").hex().encode() == digits[4]
        for name in (b"b", b"c", b"e", b"f"):
            with pytest.raises(CommandFailed):
                repository.lookup(name + b" ")
        with pytest.raises(CommandFailed, match="unknown revision 'zz'"):
            repository.lookup(b"zz")

    def test_branches_prefer_open_heads(self) -> None:
        repository = MemoryRepository()
        base = repository.commit({"a": b"0"}, branch="x")
        opened = repository.commit({"a": b"1"}, parents=[base])
        closed = repository.commit({"a": b"2"}, parents=[base], close=True)
        assert repository.lookup(b"x") == opened
        last = repository.commit(parents=[opened], close=True)
        assert repository.lookup(b"x") == last != closed


class TestKeys:
    def test_namespaces(self) -> None:
        repository = MemoryRepository()
        assert repository.listkeys(b"namespaces") == {b"bookmarks": b"", b"namespaces": b"", b"phases": b""}
        assert repository.listkeys(b"phases") == {b"publishing": b"True"}
        assert repository.listkeys(b"nosuch") == repository.listkeys(b"bookmarks") == {}
        assert not repository.pushkey(b"nosuch", b"", b"", b"").success

    def test_bookmarks(self) -> None:
        repository = history(2)
        one, two = (repository.lookup(key).hex().encode() for key in (b"0", b"1"))

        def move(old: bytes, new: bytes) -> bool:
            return repository.pushkey(b"bookmarks", b"b", old, new).success

        assert not move(one, two)
        assert not move(b"", UNKNOWN.hex().encode()) and not move(b"", b"zz")
        assert move(b"", one) and repository.listkeys(b"bookmarks") == {b"b": one}
        assert move(b"", one), "what is so already is no failure"
        assert not move(b"", two) and not move(two, b"") and repository.listkeys(b"bookmarks") == {b"b": one}
        assert move(one, two) and repository.listkeys(b"bookmarks") == {b"b": two}
        assert move(two, b"") and repository.listkeys(b"bookmarks") == {}
        assert move(one, b""), "what is gone already is no failure"

    def test_phases(self) -> None:
        repository = history(1)
        node = repository.heads()[0].hex().encode()
        assert repository.pushkey(b"phases", node, b"1", b"0").success
        assert not repository.pushkey(b"phases", node, b"0", b"1").success
        assert not repository.pushkey(b"phases", UNKNOWN.hex().encode(), b"1", b"0").success
        assert not repository.pushkey(b"phases", b"zz", b"1", b"0").success


class TestBundles:
    def test_everything(self) -> None:
        repository = history()
        copy = MemoryRepository.from_bundle(io.BytesIO(bundle(repository)), settings={"web.x": "y"})
        assert copy.heads() == repository.heads() and copy.setting("web", "x") == "y"
        assert bundle(copy) == bundle(repository) == bundle(repository, heads=[], common=[NULL, UNKNOWN])

    def test_a_part(self) -> None:
        repository = history()
        nodes = [repository.lookup(b"%d" % number) for number in range(3)]
        part = MemoryRepository.from_bundle(io.BytesIO(bundle(repository, heads=nodes[:1])))
        assert part.heads() == nodes[:1]
        push(part, bundle(repository, common=nodes[:1], heads=[nodes[2]]))
        assert part.heads() == [nodes[2]] and part.files(nodes[2]) == {"file": b"2\n"}
        empty = b"\0" * 12
        assert (
            bundle(repository, common=nodes) == bundle(repository, heads=[NULL]) == bundle(MemoryRepository()) == empty
        )

    def test_without_changegroup(self) -> None:
        with pytest.raises(InvalidArgument, match="cg"):
            history().getbundle(cg=False)

    def test_unknown(self) -> None:
        repository = history()
        for call in (
            lambda: repository.getbundle(heads=[UNKNOWN]),
            lambda: repository.changegroup([UNKNOWN], None),
            lambda: repository.changegroup([NULL], [UNKNOWN]),
        ):
            with pytest.raises(CommandFailed, match="unknown revision"):
                call()

    def test_changegroup(self) -> None:
        """What a merge brings besides its requested side comes along, or the receiver could not apply it."""
        repository = MemoryRepository()
        base = repository.commit({"base": b"0"})
        left = repository.commit({"left": b"1"}, parents=[base])
        right = repository.commit({"right": b"1"}, parents=[base])
        merge = repository.commit(parents=[left, right])
        after = repository.commit({"after": b"1"}, parents=[merge])
        receiver = MemoryRepository.from_bundle(io.BytesIO(bundle(repository, heads=[base])))
        push(receiver, joined(repository.changegroup([left], None)))
        assert receiver.heads() == [after] and receiver.files(after) == repository.files(after)
        everything = bundle(repository)
        assert joined(repository.changegroup([NULL], None)) == everything
        assert joined(repository.changegroup([base, right], [after])) == everything
        assert joined(repository.changegroup([base], [left])) == bundle(repository, heads=[left])
        assert joined(repository.changegroup([right, after], None)) == bundle(repository, common=[base])

    def test_revisions_that_were_there_before(self) -> None:
        """A file that comes back, or is made twice, has the revision it had; it is sent to whoever may lack it."""
        repository = MemoryRepository()
        base = repository.commit({"base": b"0"})
        repository.commit({"twice": b"1"}, parents=[base], message="one")
        second = repository.commit({"twice": b"1"}, parents=[base], message="two")
        repository.commit({"twice": None}, parents=[second])
        again = repository.commit({"twice": b"1"})
        receiver = MemoryRepository.from_bundle(io.BytesIO(bundle(repository, heads=[second])))
        assert receiver.files(second) == {"base": b"0", "twice": b"1"}
        push(receiver, bundle(repository, common=[second]))
        assert receiver.files(again) == repository.files(again)


class TestUnbundle:
    @pytest.mark.parametrize(
        "pack",
        [
            lambda data: data,
            lambda data: b"HG10UN" + data,
            lambda data: b"HG10GZ" + zlib.compress(data),
            lambda data: b"HG10" + bz2.compress(data),
        ],
        ids=["bare", "UN", "GZ", "BZ"],
    )
    def test_formats(self, pack: Any) -> None:
        repository = MemoryRepository()
        response = push(repository, pack(bundle(history())))
        assert response == PushResponse(1, b"added 3 changesets with 3 changes to 1 files\n")
        assert repository.heads() == history().heads()

    def test_heads_check(self) -> None:
        source, repository = history(3), MemoryRepository()
        first = source.lookup(b"0")
        assert isinstance(push(repository, bundle(source, heads=[first]), [NULL]), PushResponse)
        rest = bundle(source, common=[first])
        digest = hashlib.sha1(first).digest()
        for heads in ([], [NULL], [first, NULL], [b"hashed", bytes(20)], [b"hashed"], [b"Force"]):
            assert isinstance(push(repository, rest, heads), PushError), heads
            assert repository.heads() == [first]
        assert isinstance(push(repository, rest, [b"hashed", digest]), PushResponse)
        other = MemoryRepository()
        side = other.commit({"other": b"1"})
        assert isinstance(push(repository, bundle(other), repository.heads()), PushResponse)
        one, two = repository.heads()
        assert isinstance(push(repository, rest, [two, one]), PushResponse) and side in (one, two)
        assert isinstance(
            push(repository, rest, [b"hashed", hashlib.sha1(min(one, two) + max(one, two)).digest()]), PushResponse
        )

    def test_result_counts_heads(self) -> None:
        source = MemoryRepository()
        base = source.commit({"a": b"0"})
        one = source.commit({"a": b"1"}, parents=[base])
        two = source.commit({"a": b"2"}, parents=[base])
        three = source.commit({"a": b"3"}, parents=[base], close=True)
        merge = source.commit(parents=[one, two])
        repository = MemoryRepository.from_bundle(io.BytesIO(bundle(source, heads=[one])))
        for head, result in ((two, 2), (three, 1), (merge, -2), (merge, 1)):
            response = push(repository, bundle(source, common=repository.heads(), heads=[head]))
            assert isinstance(response, PushResponse) and response.result == result, head

    @pytest.mark.parametrize("data", [b"", b"HG20", b"garbage", b"\0\0\0\0", b"HG10UN" + b"\0" * 13])
    def test_malformed(self, data: bytes) -> None:
        repository = history()
        before = repository.content_token()
        response = push(repository, data)
        assert isinstance(response, PushResponse) and response.result == 0
        assert response.output.startswith(b"abort: ") and response.output.endswith(b"\n")
        assert repository.content_token() == before
        with pytest.raises(CommandFailed):
            MemoryRepository.from_bundle(io.BytesIO(data))

    def test_what_the_body_raises_passes(self) -> None:
        with pytest.raises(DecodeError):
            push(MemoryRepository(), b"HG10GZ" + zlib.compress(bundle(history()))[:-4])

    def test_bound(self) -> None:
        data = bundle(history(1))
        repository = MemoryRepository(push_bytes=len(data) - 1)
        response = push(repository, data)
        assert response == PushResponse(0, b"abort: the bundle exceeds %d bytes\n" % (len(data) - 1))
        assert repository.heads() == [NULL]
        accepted = push(MemoryRepository(push_bytes=len(data)), data)
        assert isinstance(accepted, PushResponse) and accepted.result == 1


class TestSnapshots:
    def test_see_no_changes_but_their_own(self) -> None:
        repository = history(1)
        first, second = repository.snapshot(), repository.snapshot()
        node = repository.commit({"a": b"1"})
        assert first.heads() != repository.heads() == [node]
        assert first.pushkey(b"bookmarks", b"b", b"", node.hex().encode()).success
        assert first.heads() == [node] and first.content_token() == repository.content_token() != second.content_token()
        assert second.listkeys(b"bookmarks") == {} != repository.listkeys(b"bookmarks")

    def test_race_is_lost_by_the_second(self) -> None:
        repository = history(1)
        heads = repository.heads()
        first, second = repository.snapshot(), repository.snapshot()
        pushes = []
        for number in range(2):
            source = MemoryRepository.from_bundle(io.BytesIO(bundle(repository)))
            source.commit({"a": b"%d" % number})
            pushes.append(bundle(source, common=heads))
        assert isinstance(push(first, pushes[0], heads), PushResponse)
        assert second.heads() == heads
        assert isinstance(push(second, pushes[1], heads), PushError)

    def test_streams_are_of_one_moment(self) -> None:
        repository = history()
        expected = bundle(repository)
        response = repository.snapshot().getbundle()
        repository.commit({"file": b"later"})
        assert joined(response) == expected

    def test_parallel_pushes_lose_nothing(self) -> None:
        repository = MemoryRepository()
        bundles = []
        for number in range(8):
            source = MemoryRepository()
            source.commit({f"file{number}": b"x"}, message=str(number))
            bundles.append(bundle(source))
        start = threading.Barrier(len(bundles))

        def work(data: bytes) -> None:
            start.wait()
            assert isinstance(push(repository.snapshot(), data), PushResponse)

        threads = [threading.Thread(target=work, args=[data]) for data in bundles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(repository.heads()) == len(bundles)


class TestProvider:
    @pytest.mark.parametrize(
        ("path", "located"),
        [
            ("", ("", "")),
            ("/", ("", "")),
            ("/repo", ("repo", "")),
            ("/repo/", ("repo", "")),
            ("/repo/.hg/x", ("repo", ".hg/x")),
            ("/repo/deep", ("repo/deep", "")),
            ("/repo/deep/er", ("repo/deep", "er")),
            ("//repo//deep", ("repo/deep", "")),
            ("/repository", ("", "repository")),
            ("/r\xc3\xa9po", ("r\xc3\xa9po", "")),
        ],
    )
    def test_locate(self, path: str, located: tuple[str, str]) -> None:
        repositories = {name: MemoryRepository() for name in ("", "repo", "/repo/deep/", "répo")}
        provider = MemoryProvider(repositories)
        assert provider.locate(path) == located
        provider.lease(located[0]).release()

    def test_nothing_there(self) -> None:
        provider = MemoryProvider({"repo": MemoryRepository()})
        assert provider.locate("/other") is None and provider.locate("") is None
        with pytest.raises(RepositoryNotFound):
            provider.lease("other")

    def test_leases_are_snapshots(self) -> None:
        repository = history()
        heads = repository.heads()
        with MemoryProvider({"": repository}).lease("") as leased:
            repository.commit({"a": b"1"})
            assert leased.heads() == heads != repository.heads()


def test_names_are_listed() -> None:
    provider = MemoryProvider({"b": MemoryRepository(), "a/c": MemoryRepository()})
    assert provider.names(10) == ["a/c", "b"] and provider.names(1) == ["a/c"]
