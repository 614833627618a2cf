# SPDX-License-Identifier: Apache-2.0
"""The status page of a proxy that works, in a browser that people use."""

from __future__ import annotations

import http.client
import urllib.parse

import pytest

from oslo_transfer.service.proxy import page
from tests.browser import chromium
from tests import groups
from tests.servers import nginx
from tests.servers import proxy_service
from tests.servers import resource
from tests import waiting

pytestmark = groups.marks(
    'browser', chromium.is_installed() and nginx.Nginx.found() is not None
)

BLOCK = 64 * 1024
BLOCKS = 200
DATA = resource.pattern(BLOCKS * BLOCK)
HOSTILE = '<img src=x onerror="window.owned = 1">.html'
EVIL = b'<script>window.owned = 1</script>window.owned = 1;'


@pytest.fixture
def origin(tmp_path):
    root = tmp_path / 'origin'
    root.mkdir()
    (root / 'image.raw').write_bytes(DATA)
    (root / HOSTILE).write_bytes(EVIL)
    with nginx.Nginx(root) as running:
        yield running


@pytest.fixture
def options(origin):
    """Of the proxy; a test may have more of them."""
    return {'origins': origin.url('/')}


@pytest.fixture
def proxy(tmp_path, options):
    path = tmp_path / 'p'
    path.mkdir()
    with proxy_service.ProxyService(
        path, {'oslo_transfer_proxy': options}
    ) as running:
        yield running


def counts(window):
    """What the legend of the first map says, by state."""
    window.shows('article bdi')
    window.evaluate('document.querySelector("article").scrollIntoView()')
    window.shows('[data-field=missing]')
    return {
        state: int(window.text(f'article [data-field={state}]'))
        for state in ('cached', 'hot', 'flight', 'missing')
    }


def test_shows_what_the_proxy_does(origin, proxy, window):
    url = origin.url('/image.raw')
    window.open(f'{proxy.url}/')
    assert window.evaluate('location.pathname') == page.HOME
    window.shows('#count', '0 images')

    # Somebody reads the first half, so that it is of the trace.
    half = BLOCKS // 2 * BLOCK
    span = {'Range': f'bytes=0-{half - 1}'}
    assert proxy.get(url, span) == DATA[:half]
    assert proxy.get(url, span) == DATA[:half]
    window.shows('#count', '1 image')
    assert window.text('article bdi') == url
    waiting.until(lambda: counts(window)['flight'] == 0)
    before = counts(window)
    assert before['hot'] + before['cached'] >= BLOCKS // 2
    assert sum(before.values()) == BLOCKS
    waiting.until(
        lambda: '12.5 MiB served' in window.text('#totals').split('\n')
    )
    assert url.removesuffix('/image.raw') in window.text('#origins')

    # The rest is sent ahead.
    proxy.ask('POST', '/v1/proxy/prefetches', {'url': url, 'kind': 'full'})
    window.shows('#jobs', 'done')
    assert '100 % of 12.5 MiB' in window.text('#jobs')
    waiting.until(lambda: counts(window)['missing'] == 0)
    assert sum(counts(window).values()) == BLOCKS
    assert window.text('article [data-field=here-note]') == '100 %'

    proxy.ask('POST', f'/v1/proxy/pins/{proxy.image(url)["id"]}')
    window.shows('article [data-field=pinned]', 'pinned')
    proxy.ask('DELETE', f'/v1/proxy/pins/{proxy.image(url)["id"]}')
    proxy.ask('DELETE', f'/v1/proxy/images/{proxy.image(url)["id"]}')
    window.shows('#count', '0 images')


def test_names_of_origins_are_only_text(origin, proxy, window):
    path = urllib.parse.quote(f'/{HOSTILE}')
    assert proxy.get(origin.url(path)) == EVIL
    window.open(proxy.url + page.HOME)
    window.shows('article bdi')
    shown = window.text('article bdi')
    assert urllib.parse.unquote(shown) == origin.url(f'/{HOSTILE}')
    assert window.evaluate('document.images.length') == 0
    assert window.evaluate('window.owned') is None


def test_origins_have_no_pages_here(origin, proxy, browser):
    """Or theirs could do all that the status page can."""
    url = proxy.of(origin.url(urllib.parse.quote(f'/{HOSTILE}')))
    for wrong in ('', '.not-here'):
        path = urllib.parse.urlsplit(url + wrong).path
        _, fields, _ = ask(proxy, 'GET', path)
        # Neither is it taken for a script, or a style.
        assert fields['X-Content-Type-Options'] == 'nosniff'
    # It would be kept as a file.
    with browser.page() as window:
        with pytest.raises(AssertionError, match='ERR_ABORTED'):
            window.open(url)


def ask(proxy, method, path):
    """Ask; returns status, headers and body."""
    place = urllib.parse.urlsplit(proxy.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, 10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_files_and_their_headers(proxy):
    for path, kind in (
        ('/status', 'text/html'),
        ('/status/page.css', 'text/css'),
        ('/status/page.js', 'text/javascript'),
        ('/status/elements.js', 'text/javascript'),
        ('/status/map.js', 'text/javascript'),
        ('/status/text.js', 'text/javascript'),
    ):
        status, fields, data = ask(proxy, 'GET', path)
        assert status == 200 and data
        assert fields.get_content_type() == kind
        assert fields.get_content_charset() == 'utf-8'
        policy = fields['Content-Security-Policy'].split('; ')
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert 'unsafe' not in fields['Content-Security-Policy']
        assert fields['X-Content-Type-Options'] == 'nosniff'
        assert fields['Referrer-Policy'] == 'no-referrer'
        status, head, nothing = ask(proxy, 'HEAD', path)
        assert (status, nothing) == (200, b'')
        assert head['Content-Length'] == str(len(data))
        assert ask(proxy, 'POST', path)[0] == 405
    status, fields, _ = ask(proxy, 'GET', '/')
    assert (status, fields['Location']) == (302, 'status')
    assert ask(proxy, 'GET', '/status/../status/page.py')[0] in (400, 403, 404)


class TestWithTokens:
    @pytest.fixture
    def options(self, origin, tmp_path):
        path = tmp_path / 'tokens'
        path.write_text('t0ken-of-a-host\n')
        return {'origins': origin.url('/'), 'tokens_file': path}

    def test_asks_for_one(self, origin, proxy, window, tmp_path):
        window.open(proxy.url + page.HOME)
        window.shows('#state', 'A token is needed')
        assert 'token' in window.text('#why')
        window.write('#token', 'an0ther')
        window.press('Enter', 13, '\r')
        window.shows('#state', 'The token was refused')
        window.write('#token', 't0ken-of-a-host')
        window.press('Enter', 13, '\r')
        window.shows('#count', '0 images')
        for request in window.requests():
            assert not urllib.parse.urlsplit(request['url']).query
            assert 't0ken' not in request['url']
        assert 't0ken' not in proxy.log.read_text()
