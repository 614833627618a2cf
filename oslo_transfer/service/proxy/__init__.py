# SPDX-License-Identifier: Apache-2.0
"""The role ``proxy``: one crossing of the WAN for all hosts of a place."""
