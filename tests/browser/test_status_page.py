# SPDX-License-Identifier: Apache-2.0
"""What the status page makes of whatever the API says."""

from __future__ import annotations

import json

import pytest

from oslo_transfer.service.proxy import page
from tests.browser import chromium
from tests.browser import scripted
from tests import groups
from tests import waiting

pytestmark = groups.marks('browser', chromium.is_installed())

HOSTILE = [
    '<img src=x onerror="window.owned = 1">',
    '"><script>window.owned = 1</script>',
    '</bdi></template><h1 id=owned>owned</h1>',
    "javascript:window.owned = 1//'",
    '${window.owned = 1}{{owned}}&lt;b&gt;',
    '__proto__',
    'a' * 5000,
]
UP = '#state', 'Up to date'
# Pixels of a canvas that have the color of a state.
COUNT = """((name) => {
    const canvas = document.querySelector('#images canvas');
    const wanted = document.createElement('canvas').getContext('2d');
    wanted.fillStyle = getComputedStyle(document.documentElement)
        .getPropertyValue(`--${name}`);
    wanted.fillRect(0, 0, 1, 1);
    const is = wanted.getImageData(0, 0, 1, 1).data.join();
    const {data} = canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let i = 0; i < data.length; i += 4) {
        found += data.subarray(i, i + 4).join() === is;
    }
    return found;
})"""


@pytest.fixture
def proxy():
    with scripted.ScriptedProxy() as running:
        yield running


@pytest.fixture
def shown(proxy, window):
    """The window, once it shows an image and its map."""
    window.open(proxy.url)
    show_map(window)
    window.shows(*UP)
    return window


def show_map(window):
    """Have the map of the first image on the screen."""
    window.shows('article bdi')
    window.evaluate('document.querySelector("article").scrollIntoView()')
    window.shows('[data-field=cached]')


def ask_again(window):
    """Have the page not wait for its next round."""
    window.evaluate(
        'void document.dispatchEvent(new Event("visibilitychange"))'
    )


def asked(window, path):
    """How often the page has asked for something."""
    return sum(path in request['url'] for request in window.requests())


def pixels(window, *states):
    """How much of the map each state has."""
    return [window.evaluate(f'{COUNT}("{state}")') for state in states]


def test_shows_what_the_api_says(shown):
    assert shown.text('h1') == 'Proxy far'
    assert shown.text('#about') == 'oslo.transfer 1.2.3, up for 2 h'
    totals = shown.text('#totals').split('\n')
    for line in (
        *('48 MiB', '75 %', '768 hits, 256 misses', '8 MiB/s', '2 MiB/s'),
        *('64 MiB served', '16 MiB fetched', '1,234 requests, 6 refused'),
    ):
        assert line in totals
    image = shown.text('#images')
    for text in (
        'http://far.example/a1.raw',
        '16 MiB',
        '25 %',
        '768 of 1,024',
    ):
        assert text in image
    job = shown.text('#jobs')
    for text in ('hot', 'running', '25 % of 40 MiB', '5 s'):
        assert text in job
    assert '256' in shown.text('#origins')


def test_map_is_drawn_and_told(shown):
    hot, cached, flight, missing = pixels(
        shown, 'hot', 'cached', 'flight', 'missing'
    )
    # One square a block, but for those that are the border of two.
    assert cached / hot == pytest.approx(3, rel=0.05)
    assert missing / hot == pytest.approx(760 / 64, rel=0.05)
    assert hot / flight == pytest.approx(8, rel=0.05)
    told = '1,024 blocks: 64 hot, 192 cached, 8 in flight, 760 missing'
    assert f'Map of {told}' in shown.names('image')
    legend = shown.text('.legend').split()
    assert ''.join(legend).startswith('cached192hot64inflight8missing760')
    shown.click('details summary')
    shown.wait('document.querySelectorAll("details li").length === 4')
    assert shown.text('details li') == '0 B – 4 MiB: hot'


def test_map_of_a_huge_image_shows_one_block(proxy, window):
    tib = 1 << 40
    blocks = tib // scripted.BLOCK
    proxy.answers[f'{scripted.API}/images']['images'][0].update(
        size=tib, blocks=blocks
    )
    proxy.answers[f'{scripted.API}/maps/a1'] = scripted.block_map(
        ('missing', blocks // 2), ('flight', 1), ('missing', blocks // 2 - 1)
    )
    window.open(proxy.url)
    show_map(window)
    assert pixels(window, 'flight', 'cached', 'hot')[0] > 0
    assert 'a square is 12,158 blocks, 760 MiB' in window.text('.legend')


def test_many_images(proxy, window):
    """Those that cannot be seen cost nothing."""
    proxy.answers[f'{scripted.API}/images']['images'] = [
        scripted.image(f'b{number:04}') for number in range(1000)
    ]
    window.open(proxy.url)
    window.wait('document.querySelectorAll("article").length === 200')
    window.shows(*UP)
    assert window.text('#count') == '200 of 1,000 images'
    waiting.until(lambda: asked(window, '/maps/'))
    assert asked(window, '/maps/') < 30
    window.write('#filter', 'B0999')
    window.wait('document.querySelectorAll("article").length === 1')
    assert window.text('#count') == '1 of 1,000 images'
    assert 'b0999.raw' in window.text('#images')


def test_follows_what_changes(proxy, shown):
    """Without moving what stays."""
    shown.evaluate('void (window.article = document.querySelector("article"))')
    images = proxy.answers[f'{scripted.API}/images']['images']
    images.insert(0, scripted.image('a0', pinned=True, problem='disk full'))
    ask_again(shown)
    shown.wait('document.querySelectorAll("article").length === 2')
    assert 'a0.raw' in shown.text('article h3')
    assert 'pinned' in shown.text('article h3')
    assert shown.text('article .alert') == 'disk full'
    assert shown.evaluate(
        'article === document.querySelectorAll("article")[1]'
    )
    del images[0]
    ask_again(shown)
    shown.wait('document.querySelectorAll("article").length === 1')
    assert shown.evaluate('article === document.querySelector("article")')


def test_hostile_text_is_only_text(proxy, window):
    window.open(proxy.url)
    show_map(window)
    proxy.answers = {
        path: taint(answer, HOSTILE[0])
        for path, answer in proxy.answers.items()
    }
    good = scripted.answers()
    for path, name, make in (
        (f'{scripted.API}/images', 'images', scripted.image),
        (f'{scripted.API}/prefetches', 'prefetches', scripted.job),
    ):
        proxy.answers[path] = {
            name: [
                taint(make(f'a{index}'), text)
                for index, text in enumerate(HOSTILE, 1)
            ]
        }
    good_origin = good[scripted.API]['origins'][0]
    proxy.answers[scripted.API]['origins'] = [
        taint(good_origin, text) for text in HOSTILE
    ]
    ask_again(window)
    window.shows('#datacenter', HOSTILE[0])
    elements = window.evaluate('document.querySelectorAll("*").length')
    for part, fields in (
        ('#images', ('origin', 'problem')),
        ('#jobs', ('origin', 'kind', 'state', 'problem')),
        ('#origins', ('origin', 'problem')),
    ):
        for name in fields:
            selector = json.dumps(f'{part} [data-field={name}]')
            shown = window.evaluate(
                f'[...document.querySelectorAll({selector})]'
                '.map((node) => node.textContent)'
            )
            assert sorted(shown) == sorted(HOSTILE), (part, name)
    # Nothing of it has become an element, or has run.
    assert window.evaluate('window.owned') is None
    proxy.answers = json.loads(json.dumps(proxy.answers), object_hook=harmless)
    ask_again(window)
    window.shows('#datacenter', 'harmless')
    window.shows(*UP)
    assert window.evaluate('document.querySelectorAll("*").length') == elements
    own = proxy.url.removesuffix(page.HOME)
    assert all(
        request['url'].startswith((own, 'data:,'))
        for request in window.requests()
    )


def taint(answer, text):
    """The same with a text in each place that may have one."""
    if isinstance(answer, dict):
        return {
            name: value if name in ('id', 'runs') else taint(value, text)
            for name, value in answer.items()
        }
    if isinstance(answer, (list, tuple)):
        return [taint(value, text) for value in answer]
    return text if answer is None or isinstance(answer, str) else answer


def harmless(fields):
    """The same without what is hostile; names still differ."""
    return {
        name: f'harmless {HOSTILE.index(value)}' if value in HOSTILE else value
        for name, value in fields.items()
    }


def test_letters_that_hide_others_show(proxy, window):
    name = 'http://far.example/\u202egpj.\u200bexe\x1b[2J\ud800'
    proxy.answers[f'{scripted.API}/images']['images'][0]['origin'] = name
    window.open(proxy.url)
    window.shows('article bdi')
    assert window.text('article bdi') == (
        r'http://far.example/\u{202e}gpj.\u{200b}exe\u{1b}[2J\u{d800}'
    )


# Has the page ask at once, of answers that are given here, one after another.
ROUNDS = """((all) => all.reduce(async (before, answers) => {
    const found = await before;
    const state = document.querySelector('#state');
    window.fetch = async (url) => `/${url}` in answers
        ? new Response(JSON.stringify(answers[`/${url}`]))
        : new Response('{}', {status: 404});
    state.textContent = '';
    document.dispatchEvent(new Event('visibilitychange'));
    while (!state.textContent) {
        await new Promise((done) => setTimeout(done));
    }
    return [...found, state.textContent];
}, []))"""
NONSENSE = [None, [], [[None]], 1e308, '7', {'length': 1 << 53}]


def spoil(answer, nonsense):
    """The answer with nonsense in each of its places, one after another."""
    yield nonsense
    if isinstance(answer, dict):
        for name, value in answer.items():
            for each in spoil(value, nonsense):
                yield {**answer, name: each}
    elif isinstance(answer, (list, tuple)):
        for index, value in enumerate(answer):
            for each in spoil(value, nonsense):
                yield [*answer[:index], each, *answer[index + 1 :]]


def test_nonsense_is_survived(shown):
    good = scripted.answers()
    for nonsense in NONSENSE:
        bad = [
            {**good, path: each}
            for path, answer in good.items()
            for each in spoil(answer, nonsense)
        ]
        told = shown.evaluate(f'{ROUNDS}({json.dumps([*bad, good])})')
        assert told == ['Up to date'] * (len(bad) + 1), nonsense
        assert 'far.example/a1.raw' in shown.text('#images')


def test_asks_for_a_token(proxy, window):
    proxy.token = 'T0ken/with+signs=='
    window.open(proxy.url)
    window.wait('!document.querySelector("#ask").hidden')
    assert window.text('#state') == 'A token is needed'
    assert window.evaluate('document.querySelector("#content").hidden')
    assert window.evaluate('document.activeElement.id') == 'token'
    window.write('#token', 'wrong')
    window.press('Enter', 13, '\r')
    window.shows('#state', 'refused')
    window.write('#token', proxy.token)
    window.press('Enter', 13, '\r')
    window.shows('article bdi')
    assert window.evaluate('document.querySelector("#ask").hidden')
    # It is in memory, and nowhere else.
    for request in window.requests():
        assert 'T0ken' not in request['url'] + request.get('postData', '')
        assert request['method'] == 'GET'
    assert window.evaluate('location.href') == proxy.url
    assert 'T0ken' not in window.evaluate('document.documentElement.outerHTML')
    assert (
        window.evaluate(
            'document.cookie.length + localStorage.length'
            ' + sessionStorage.length'
        )
        == 0
    )
    assert window.evaluate('document.querySelector("#token").value') == ''
    window.click('#forget')
    window.shows('#state', 'A token is needed')


def test_token_that_is_none(proxy, window):
    proxy.token = 'token'
    window.open(proxy.url)
    window.wait('!document.querySelector("#ask").hidden')
    window.write('#token', 'tök\u2028en')
    window.click('#ask button')
    window.shows('#why', 'ASCII')


def test_says_that_there_is_no_answer(proxy, shown):
    path = f'{scripted.API}/images'
    answer = proxy.answers[path]
    proxy.answers[path] = 503
    shown.shows('#state', 'no: 503')
    # What was known is still there, with its age.
    assert 'No answer: no: 503; this is from ' in shown.text('#state')
    assert 'a1.raw' in shown.text('#images')
    proxy.answers[path] = b'{"images": [{"id"'
    ask_again(shown)
    shown.shows('#state', 'JSON')
    proxy.answers[path] = answer
    ask_again(shown)
    shown.shows(*UP)


def test_pauses(proxy, shown):
    shown.click('#pause')
    assert shown.text('#state') == 'Paused'
    proxy.answers[f'{scripted.API}/images']['images'].append(
        scripted.image('a2')
    )
    before = asked(shown, '/images')
    # For longer than a round takes.
    shown.evaluate('new Promise((done) => setTimeout(done, 2500))')
    assert asked(shown, '/images') == before
    shown.click('#pause')
    shown.wait('document.querySelectorAll("article").length === 2')


def test_all_can_be_read_aloud_and_by_keyboard(proxy, window):
    window.open(proxy.url)
    show_map(window)
    images = window.names('image')
    assert len(images) == 2 and all(images)
    headings = window.names('heading')
    assert headings[0] == 'Proxy far'
    for name in ('Prefetches', 'Images', 'Origins'):
        assert name in headings
    assert window.names('progressbar') == ['Progress']
    assert window.names('searchbox') == ['Origins with']
    reached = []
    for _ in range(3):
        window.press('Tab', 9)
        reached.append(
            window.evaluate(
                'document.activeElement.id || document.activeElement.localName'
            )
        )
    assert reached == ['pause', 'filter', 'summary']
    window.press('Enter', 13, '\r')
    window.wait('document.querySelectorAll("details li").length === 4')


CONTRAST = """((name, behind) => {
    const light = (name) => {
        const context = document.createElement('canvas').getContext('2d');
        context.fillStyle = getComputedStyle(document.documentElement)
            .getPropertyValue(`--${name}`);
        context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data]
            .map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92
                : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const [a, b] = [light(name), light(behind)];
    return Math.max(a, b) / Math.min(a, b);
})"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_colors_can_be_told_apart(scheme, proxy, window):
    """As WCAG 2.2 wants, 1.4.3 and 1.4.11."""
    window.prefer(color_scheme=scheme)
    window.open(proxy.url)

    def contrast(*names):
        return window.evaluate(f'{CONTRAST}(...{json.dumps(names)})')

    assert contrast('text', 'card') > 7
    assert contrast('text', 'ground') > 7
    assert contrast('quiet', 'card') > 4.5
    assert contrast('quiet', 'ground') > 4.5
    assert contrast('wrong', 'wrong-ground') > 4.5
    for state in ('cached', 'hot', 'flight'):
        assert contrast(state, 'missing') > 3, state
        assert contrast(state, 'card') > 3, state
    assert contrast('flight', 'hot') > 2
    assert contrast('flight', 'cached') > 2


def test_fits_a_phone_and_the_dark(proxy, window):
    window.prefer(color_scheme='dark')
    window.resize(360, 700)
    window.open(proxy.url)
    show_map(window)
    assert window.evaluate('document.documentElement.scrollWidth') <= 360
    assert pixels(window, 'cached')[0] > 0
    # What is on the screen follows.
    window.prefer(color_scheme='light')
    window.wait(f'{COUNT}("cached") > 0')


def test_policy_holds_where_the_page_would_not(proxy, browser):
    """Nobody's text becomes elements, and nothing goes elsewhere."""
    attacks = {
        'document.body.innerHTML = "<b>x</b>"': 'TrustedHTML',
        'document.createElement("script").src = "/http/far.example/x.js"': (
            'TrustedScriptURL'
        ),
        'new Function("1")': 'EvalError|TrustedScript',
    }
    with browser.page() as window:
        window.open(proxy.url)
        for attack, why in attacks.items():
            with pytest.raises(RuntimeError, match=why):
                window.evaluate(attack)
        leak = """new Promise((done) => {
            const picture = document.createElement('img');
            picture.onerror = () => done('refused');
            picture.onload = () => done('loaded');
            picture.src = '/leak';
        })"""
        assert window.evaluate(leak) == 'refused'
        found = window.evaluate('violations')
        own = proxy.url.removesuffix(page.HOME)
        assert f'img-src {own}/leak' in found
