# SPDX-License-Identifier: Apache-2.0
"""Tables of what drivers and strategies can do, read from their classes.

``.. support-matrix:: NAMESPACE`` has a row for each capability and a column
for each driver that this package registers in the namespace.

``.. strategy-table:: NAMESPACE`` has a row for each strategy.

``.. capabilities::`` explains each capability.
"""

from sphinx.util import docutils as sphinx_docutils
from sphinx.util import logging
from stevedore import extension

from oslo_transfer.drivers import base

LOG = logging.getLogger(__name__)


def _load(namespace):
    """Return the classes of a namespace, each with its names."""

    def failed(manager, point, error):
        # A warning fails the build.
        LOG.warning('%s of %s: %s', point.name, namespace, error)

    manager = extension.ExtensionManager(
        namespace, invoke_on_load=False, on_load_failure_callback=failed
    )
    classes = {}
    for item in sorted(manager, key=lambda item: item.name):
        # What happens to be installed beside it is not ours to document.
        if item.plugin.__module__.startswith('oslo_transfer.'):
            classes.setdefault(item.plugin, []).append(item.name)
    return classes


def _list_table(rows, widths):
    yield '.. list-table::'
    yield '   :header-rows: 1'
    yield '   :widths: ' + ' '.join(str(width) for width in widths)
    yield ''
    for row in rows:
        marker = '*'
        for cell in row:
            yield f'   {marker} - {cell}'
            marker = ' '
    yield ''


class SupportMatrix(sphinx_docutils.SphinxDirective):
    """A row for each capability, a column for each driver."""

    required_arguments = 1

    def run(self):
        """Make the table anew at each build."""
        self.env.note_reread()
        drivers = _load(self.arguments[0])
        if not drivers:
            raise self.error(f'no drivers in {self.arguments[0]}')
        rows = [
            ['Capability', *(', '.join(names) for names in drivers.values())]
        ]
        for member in base.Capability:
            marks = (
                'yes' if member in cls.capabilities else '\\-'
                for cls in drivers
            )
            rows.append([f'``{member.name}``', *marks])
        text = '\n'.join(_list_table(rows, [16] + [12] * len(drivers)))
        return self.parse_text_to_nodes(text)


class StrategyTable(sphinx_docutils.SphinxDirective):
    """A row for each strategy."""

    required_arguments = 1

    def run(self):
        """Make the table anew at each build."""
        self.env.note_reread()
        strategies = _load(self.arguments[0])
        if not strategies:
            raise self.error(f'no strategies in {self.arguments[0]}')
        rows = [['Strategy', 'Returns', 'Leaves at the destination']]
        for cls, names in strategies.items():
            rows.append(
                [
                    ', '.join(f'``{name}``' for name in names),
                    'early' if cls.attaching else 'when all is complete',
                    ', '.join(f'``{form}``' for form in sorted(cls.forms)),
                ]
            )
        return self.parse_text_to_nodes(
            '\n'.join(_list_table(rows, [20, 25, 25]))
        )


class Capabilities(sphinx_docutils.SphinxDirective):
    """What each capability means."""

    def run(self):
        """List the members of the enumeration."""
        rows = [['Capability', 'What it says']]
        for member in base.Capability:
            rows.append([f'``{member.name}``', member.help])
        text = '\n'.join(_list_table(rows, [16, 60]))
        return self.parse_text_to_nodes(text)


def setup(app):
    """Register the directives."""
    app.add_directive('support-matrix', SupportMatrix)
    app.add_directive('strategy-table', StrategyTable)
    app.add_directive('capabilities', Capabilities)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
