# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration of the documentation."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / '_ext'))

# There is no sphinx.ext.intersphinx: the build has to work without network.
extensions = [
    'cliff.sphinxext',
    'openstackdocstheme',
    'oslo_config.sphinxext',
    'sphinx.ext.autodoc',
    'sphinxcontrib.apidoc',
    'stevedore.sphinxext',
    'support_matrix',
]

project = 'oslo.transfer'
copyright = 'OpenStack contributors'

html_theme = 'openstackdocs'
pygments_style = 'native'

openstackdocs_repo_name = 'openstack/oslo.transfer'
openstackdocs_bug_project = 'oslo.transfer'
openstackdocs_bug_tag = ''

# reference/api is generated from the public modules at every build. Names
# with a leading underscore are private and left out.
apidoc_module_dir = '../../oslo_transfer'
apidoc_output_dir = 'reference/api'
apidoc_separate_modules = True
apidoc_module_first = True
apidoc_toc_file = False
# What others have no business with is private, too: the commands, the service
# but for its client, and all that drivers are made of.
apidoc_excluded_paths = [
    'cache',
    'cli',
    'drivers/*/*',
    'export',
    # To import it is to import oslo.privsep, which warns of eventlet.
    'privileged',
    'service/[!_c]*',
    'service/c[!l]*',
]

# What the package exports is described there and in the module that defines
# it: two targets for one object, and either will do.
suppress_warnings = ['ref.python']

# The commands are the library's own, and need no word about it.
autoprogram_cliff_app_dist_name = 'oslo.transfer'

autodoc_member_order = 'bysource'
