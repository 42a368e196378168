"""Changegroups, made by copying what is stored.

A changegroup is the part of a bundle that holds revisions: the changelog, the manifests, then each file, every revision
as a delta against one that the client has or gets.  The store holds deltas, too, mostly the same ones.  So nearly all
of the work is to copy: read the data of a revision, decompress it, and put a header with five nodes in front.

Mercurial's own generator builds several objects for each revision and asks the store for each one alone.  This one
reads the data of many revisions at once.  It gives the same bytes, in the same order, which is what the tests compare.

- ``revlogs.py`` reads revlogs: index entries, and the decompressed data of many revisions.
- ``deltas.py`` makes the group of one revlog: it selects the base of each delta, as Mercurial does.
- ``texts.py`` makes the deltas of version 01, whose bases are not selected.
- ``details.py`` describes the deltas of version 04.
- ``generator.py`` makes the changegroup: which revisions, in which order, linked to which changesets.
- ``conditions.py`` knows what the generator was not proved equal on; Mercurial's own does that.
- ``seam.py`` puts the generator in.
"""
