# SPDX-License-Identifier: Apache-2.0
"""What libtorrent makes of torrent files that are read here."""

from __future__ import annotations

import libtorrent


def agree(found):
    """Libtorrent understands the same of the same bytes."""
    theirs = libtorrent.load_torrent_buffer(found.data)
    v1, v2 = theirs.info_hashes.v1, theirs.info_hashes.v2
    assert found.info_hash_v1 == (str(v1) if any(v1.to_bytes()) else None)
    assert found.info_hash_v2 == (str(v2) if any(v2.to_bytes()) else None)
    files = theirs.ti.layout()
    assert files.file_size(0) == found.size
    assert theirs.ti.piece_length() == found.piece_length
    assert theirs.ti.num_pieces() == found.piece_count
    assert theirs.ti.priv() == found.private
    # Behind it v2 may have padding up to a whole piece, and nothing else.
    padding = libtorrent.file_storage.flag_pad_file
    for index in range(files.num_files()):
        assert bool(files.file_flags(index) & padding) == (index > 0)
