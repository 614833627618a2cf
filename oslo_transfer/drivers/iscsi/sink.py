# SPDX-License-Identifier: Apache-2.0
"""The user-space engine: a LUN as a sink."""
