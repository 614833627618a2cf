# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration of the release notes."""

extensions = [
    'openstackdocstheme',
    'reno.sphinxext',
]

project = 'oslo.transfer Release Notes'
copyright = 'OpenStack contributors'

# The notes cover all versions.
release = ''
version = ''

html_theme = 'openstackdocs'
pygments_style = 'native'

openstackdocs_repo_name = 'openstack/oslo.transfer'
openstackdocs_bug_project = 'oslo.transfer'
openstackdocs_bug_tag = ''
openstackdocs_auto_name = False
