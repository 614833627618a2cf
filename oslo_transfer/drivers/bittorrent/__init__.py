# SPDX-License-Identifier: Apache-2.0
"""BitTorrent: peers, with any other location as an origin beside them."""
