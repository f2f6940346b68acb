"""The page in a real Chromium, on a real relay: what a person sees, does, and is refused."""

import re
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser

from relay import devstack
from relay.devstack.sandbox import free_port
from relay.http.feed import MOST_WATCHERS
from tests.http.asking import Served, park, serving
from tests.http.browsing import (
    DESKTOP,
    PHONE,
    REQUIRED,
    find_chromium,
    looking_at,
)
from tests.system.harness import Load, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

LONG = "x" * 400


async def test_it_renders_and_asks_nobody_else(browser: Browser, shown: Served) -> None:
    async with looking_at(browser, shown.url) as seen:
        await seen.headline("Healthy")
        assert await seen.page.get_attribute("#summary", "data-level") == "healthy"
        assert await seen.page.title() == "Healthy · relay"
        assert await seen.text("#contact") == "live"
        assert f":{shown.relay.process.pid}" in await seen.text("#who")
        assert "This relay leads" in await seen.text("#relays")
        await seen.has(
            "document.getElementById('relays').textContent.includes('nobody takes over')"
        )
        assert await seen.page.locator("#checks li[data-ok=yes]").count() == 5
        assert await seen.text("#dead-note") == "None."
        roles = await seen.page.locator("main").aria_snapshot()
        assert 'heading "Healthy"' in roles
        assert "status:" in roles
        assert 'img "Lag in the last five minutes' in roles
        paths = [each.removeprefix(shown.url) for each in seen.requests]
    assert [path for path in paths if not path.startswith("data:")] == ["", "events"]


async def test_it_is_live_while_events_flow(browser: Browser, shown: Served, dsn: str) -> None:
    async with looking_at(browser, shown.url) as seen:
        await seen.headline("Healthy")
        with Load(dsn, producers=1):
            number = "+document.getElementById('delivered').textContent.replace(/,/g, '')"
            await seen.has(f"{number} > 100")
            before = await seen.page.evaluate(number)
            await seen.has(f"{number} > {before + 100}")
            await seen.has("+document.querySelector('[data-series=rate] .now b').textContent > 10")
            await seen.has(
                "/ms|s$/.test(document.querySelector('[data-series=latency] b').textContent)"
            )
            await seen.has("document.querySelectorAll('path.first[d*=L]').length === 3")
        await seen.has(
            "document.getElementById('streams').textContent.includes('EVENTS by fast ingest')"
        )
        await seen.tab_to("summary")
        await seen.page.keyboard.press("Enter")
        await seen.has("document.querySelectorAll('#as-table tbody tr').length > 0")
        cells = (
            await seen.page.locator("#as-table tbody tr").first.locator("td").all_text_contents()
        )
        assert len(cells) == 6
        assert cells[5] in {"healthy", "starting"}


async def test_each_chart_has_an_axis_with_round_values(
    browser: Browser, shown: Served, dsn: str
) -> None:
    async with looking_at(browser, shown.url) as seen:
        await seen.headline("Healthy")
        rounds = await seen.page.evaluate(
            "[[0.001, 0.1, 3, 47, 5e4].map(roundUp), [0.003, 7, 55, 130, 4000].map(roundTimeUp)]"
        )
        assert rounds[0] == pytest.approx([0.001, 0.1, 5, 50, 5e4])
        assert rounds[1] == pytest.approx([0.005, 10, 60, 300, 6000])
        with Load(dsn, producers=1):
            await seen.has("+document.querySelector('[data-series=rate] .now b').textContent > 10")
            labels = await seen.page.locator("[data-series=rate] .scale span").all_text_contents()
            top = int(labels[0].replace(",", ""))
            assert re.fullmatch(r"[125]0*", str(top))
            assert labels[1:] == [f"{top / 2:g}", "0"]
        lag = await seen.page.locator("[data-series=lag] .scale span").all_text_contents()
        assert re.fullmatch(r"(100|200|500) ms|\d+ (s|min)", lag[0])
        assert lag[2] == "0"
        # The uppermost line of the grid is where its label is.
        place = "document.querySelector('[data-series=rate] {}').getBoundingClientRect()"
        label = await seen.page.evaluate(place.format(".scale span"))
        grid = await seen.page.evaluate(place.format(".grid"))
        assert (label["top"] + label["bottom"]) / 2 == pytest.approx(grid["top"], abs=2)


async def test_a_degraded_page_keeps_its_ground_and_marks_the_charts_along_the_edge(
    browser: Browser, shown: Served, dsn: str
) -> None:
    park(dsn, 5)
    ground = "getComputedStyle(document.querySelector('{}')).backgroundColor"
    async with looking_at(browser, shown.url) as seen:
        await seen.headline("Degraded: dead events wait for you")
        card = await seen.page.evaluate(ground.format(".card"))
        assert await seen.page.evaluate(ground.format("#summary")) == card
        mark = "document.querySelector('[data-series=lag] .degraded')"
        await seen.has(f"{mark}.getAttribute('d') !== ''")
        assert await seen.page.evaluate(f"{mark}.getBoundingClientRect().height") <= 4


async def test_it_shows_an_outage_and_its_recovery(
    browser: Browser, shown: Served, own_nats: devstack.NatsServer
) -> None:
    async with looking_at(browser, shown.url, size=PHONE) as seen:
        await seen.headline("Healthy")
        own_nats.stop()
        await seen.headline("Outage: NATS is away", 10)
        assert await seen.page.get_attribute("#summary", "data-level") == "outage"
        assert (await seen.page.title()).startswith("✕ Outage: NATS is away")
        reasons = await seen.text("#reasons")
        assert "NATS is away for " in reasons
        assert "Nothing is lost" in reasons
        assert "away for" in await seen.text("#checks li[data-ok=no]")
        # The live region changes with the state, not with every second of it.
        watch = (
            "changes = 0; new MutationObserver(() => changes++).observe("
            "document.querySelector('#summary [role=status]'),"
            " {childList: true, subtree: true, characterData: true})"
        )
        await seen.page.evaluate(watch)
        said = await seen.text("#reasons li")
        await seen.has(f"document.querySelector('#reasons li').textContent !== {said!r}")
        assert await seen.page.evaluate("changes") == 0
        own_nats.start()
        await seen.headline("Healthy", 10)
        await seen.has(
            "document.querySelector('[data-series=lag] .outage').getAttribute('d') !== ''"
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 568)])
async def test_it_can_be_read_at_any_width_in_dark_and_light(
    browser: Browser,
    shown: Served,
    dsn: str,
    size: tuple[int, int],
    scheme: Literal["light", "dark"],
) -> None:
    park(dsn, 5, key=LONG, subject=f"orders.{'y' * 200}", error=LONG)
    park(dsn, 8, dead=False, key=f"{LONG}2", subject=f"nobody.{'z' * 200}", error=LONG)
    async with looking_at(browser, shown.url, size=size, scheme=scheme) as seen:
        await seen.has("document.querySelectorAll('#dead-table tbody tr').length > 0")
        await seen.page.locator("summary").click()
        await seen.has("document.querySelectorAll('#as-table tbody tr').length > 0")
        widths = await seen.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1]
        ground = await seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (luminance(ground) > 0.5) is (scheme == "light")
        faint = await seen.page.evaluate(CONTRASTS)
        assert {name: ratio for name, ratio in faint.items() if ratio < 4.5} == {}
        box = await seen.page.locator("#dead-table button").first.bounding_box()
        assert box is not None
        assert box["height"] >= (44 if size[0] < 736 else 30)


CONTRASTS = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = (color, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = (element) => {
    const own = getComputedStyle(element).backgroundColor;
    if (own !== 'rgba(0, 0, 0, 0)' || !element.parentElement) return own;
    return behind(element.parentElement);
  };
  const found = {};
  for (const name of ['h1', '#reasons li', '.now span', '.axis', 'dt', '#dead', '#checks span',
                      '#contact', 'summary', '.error', '#dead-table button', '#who', 'caption']) {
    const element = document.querySelector(name), ground = behind(element);
    const pair = [light(getComputedStyle(element).color, ground), light(ground, ground)];
    found[name] = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  }
  return found;
})()
"""


def luminance(color: str) -> float:
    red, green, blue = (int(part) for part in color[4:-1].split(","))
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


async def test_the_browser_itself_holds_the_page_to_its_policy(
    browser: Browser, shown: Served
) -> None:
    def told_off(said: str) -> bool:
        return "Content Security Policy" in said or "Trusted" in said

    async with looking_at(browser, shown.url, may_complain=told_off) as seen:
        await seen.headline("Healthy")
        tries = """
        async () => {
          const failed = [];
          try { document.body.innerHTML = '<b>x</b>'; } catch { failed.push('markup'); }
          const script = document.createElement('script');
          try { script.text = 'pwned = 1'; } catch { failed.push('script'); }
          try { await fetch('http://192.0.2.1/'); } catch { failed.push('fetch'); }
          return failed;
        }
        """
        assert await seen.page.evaluate(tries) == ["markup", "script", "fetch"]
        seen.requests = [each for each in seen.requests if "192.0.2.1" not in each]


@pytest.mark.slow
async def test_without_news_it_says_so_itself_until_a_relay_answers_again(
    browser: Browser, dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    address = {"http": f"127.0.0.1:{free_port()}"}

    def cut(said: str) -> bool:
        return "Failed to load resource" in said

    with serving(dsn, own_nats.url, tmp_path / "one.log", **address) as first:
        url = first.url
        async with looking_at(browser, url, may_complain=cut) as seen:
            await seen.headline("Healthy")
            first.relay.kill()
            await seen.headline("No contact with this relay", 10)
            assert await seen.page.get_attribute("#summary", "data-level") == "unknown"
            assert "What is below is old" in await seen.text("#reasons")
            with serving(dsn, own_nats.url, tmp_path / "two.log", **address):
                await seen.headline("Healthy", 30)
                assert await seen.text("#contact") == "live"


async def test_a_standby_says_that_it_is_one_and_who_leads(
    browser: Browser, shown: Served, dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "standby.log") as standby:
        until(lambda: standby.is_role("standby"), 20)
        async with looking_at(browser, standby.url) as seen:
            await seen.headline("Standing by")
            leader = f":{shown.relay.process.pid}:"
            await seen.has(f"document.getElementById('relays').textContent.includes('{leader}')")
            assert await seen.page.locator("#relays li").count() == 2
            shown.relay.terminate()
            await seen.headline("Healthy")


@pytest.mark.slow
async def test_two_pages_are_told_the_same_and_a_closed_one_makes_room(
    browser: Browser, shown: Served
) -> None:
    async with looking_at(browser, shown.url) as one, looking_at(browser, shown.url) as two:
        for seen in (one, two):
            await seen.headline("Healthy")
    for _ in range(MOST_WATCHERS + 1):
        async with looking_at(browser, shown.url) as seen:
            await seen.headline("Healthy")


async def test_without_scripts_it_says_where_else_to_look(browser: Browser, shown: Served) -> None:
    async with looking_at(browser, shown.url, scripts=False) as seen:
        assert "python -m relay status --watch" in await seen.text("noscript")


@pytest.mark.parametrize(
    ("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)]
)
def test_without_a_chromium_these_tests_are_skipped_or_where_one_is_required_fail(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setenv(REQUIRED, required)
    with pytest.raises(outcome, match="install Debian's package chromium"):
        find_chromium()
