"""Dead events in a real Chromium: what a person sees of them, and how they are tried again."""

from pathlib import Path

import pytest
from playwright.async_api import Browser

from relay import devstack
from tests.http.asking import TOKEN, Served, asked_for, park, serving
from tests.http.browsing import PHONE, Seen, looking_at
from tests.system.harness import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

EVIL = '<img src=x onerror="pwned=1"><script>pwned=1</script>\u202egnp\x1b[2J'


def left(dsn: str) -> list[int]:
    return [id_ for (id_,) in asked_for(dsn, "select id from relay.parked order by id")]


async def test_a_dead_event_is_retried_by_keyboard_alone(
    browser: Browser, shown: Served, dsn: str
) -> None:
    park(dsn, 5, 7, error="too [bold]large")
    async with looking_at(browser, shown.url) as seen:
        await seen.headline("Degraded: dead events wait for you")
        await seen.has("document.querySelectorAll('#dead-table .event').length === 2")
        row = await seen.text("#dead-table tbody tr")
        assert "too [bold]large (10054)" in row
        assert "c4n4ry" not in await seen.page.content(), "a payload is on the page"
        await seen.tab_to("[aria-label='Retry event 5']")
        assert await seen.page.evaluate("document.activeElement.matches(':focus-visible')")
        outline = "parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
        assert await seen.page.evaluate(outline) >= 2
        await seen.page.keyboard.press("Enter")
        await seen.has("document.activeElement.id === 'token'")
        await seen.page.keyboard.type(TOKEN)
        await seen.page.keyboard.press("Enter")
        await seen.has(
            "document.getElementById('retry-answer').textContent === 'Event 5 is tried again.'"
        )
        await seen.has("document.querySelectorAll('#dead-table .event').length === 1")
        until(lambda: left(dsn) == [7], 10)
        # The focus goes on to the next one, and the token need not be given again.
        await seen.has("document.activeElement.getAttribute('aria-label') === 'Retry event 7'")
        await seen.page.keyboard.press("Enter")
        await seen.headline("Healthy")
        await seen.has("document.getElementById('dead-note').textContent.trim() === 'None.'")
        until(lambda: left(dsn) == [], 10)
        assert TOKEN not in await seen.page.content()
        assert TOKEN not in " ".join(seen.requests)


async def test_it_refuses_without_the_token_and_with_a_wrong_one(
    browser: Browser, shown: Served, dsn: str
) -> None:
    park(dsn, 5)

    def refused(said: str) -> bool:
        return "401" in said

    async with looking_at(browser, shown.url, size=PHONE, may_complain=refused) as seen:
        retry = seen.page.locator("[aria-label='Retry event 5']")
        await retry.click()
        await seen.has("document.activeElement.id === 'token'")
        await seen.page.keyboard.press("Enter")
        assert await seen.page.locator("dialog[open]").count() == 1, "an empty token is none"
        await seen.page.keyboard.type("wrong-token-wrong-token")
        await seen.page.keyboard.press("Enter")
        await seen.has("document.getElementById('ask-error').textContent === 'the token is wrong'")
        await seen.page.keyboard.press("Escape")
        await seen.has("!document.getElementById('ask').open")
        assert await seen.page.evaluate("document.activeElement.getAttribute('aria-label')") == (
            "Retry event 5"
        )
        assert left(dsn) == [5]
        assert asked_for(dsn, "select count(*) from relay.decision") == [(0,)]


async def test_a_relay_without_a_token_has_a_page_that_only_shows(
    browser: Browser, dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    park(dsn, 5)
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        async with looking_at(browser, shown.url) as seen:
            await seen.has("document.querySelectorAll('#dead-table .event').length === 1")
            assert not await seen.page.locator("#dead-table button").is_visible()
            note = await seen.text("#dead-note")
            assert "RELAY_HTTP_TOKEN" in note
            assert "python -m relay dead retry" in note


async def test_events_with_the_same_error_stand_together_below_it_once(
    browser: Browser, shown: Served, dsn: str
) -> None:
    park(dsn, 5, 8, error="too large")
    park(dsn, 6, error="no such stream")
    park(dsn, 7, error="too large", key="other")
    async with looking_at(browser, shown.url) as seen:
        await seen.has("document.querySelectorAll('#dead-table .event').length === 4")
        ids = await seen.page.locator("#dead-table .event td:first-child").all_text_contents()
        assert ids == ["5", "7", "8", "6"]
        groups = await seen.page.locator("#dead-table .group .error").all_text_contents()
        assert groups == ["3 events: too large (10054)", "no such stream (10054)"]
        assert (await seen.text("#dead-table")).count("too large") == 1


async def test_a_group_is_retried_at_once_and_then_all_the_others(
    browser: Browser, shown: Served, dsn: str
) -> None:
    park(dsn, 5, 7, error="too large")
    park(dsn, 6, 8, 9, error="no such stream")
    answer = "document.getElementById('retry-answer').textContent"
    async with looking_at(browser, shown.url) as seen:
        await seen.has("document.querySelectorAll('#dead-table .event').length === 5")
        assert await seen.text("#retry-all") == "Retry all 5"
        await seen.page.get_by_role("button", name="Retry these 2").click()
        assert await seen.text("#ask-title") == "Retry these 2 events"
        await seen.page.keyboard.type(TOKEN)
        await seen.page.keyboard.press("Enter")
        await seen.has(f"{answer} === '2 events are tried again.'")
        await seen.has("document.querySelectorAll('#dead-table .event').length === 3")
        until(lambda: left(dsn) == [6, 8, 9], 10)
        await seen.page.get_by_role("button", name="Retry all 3").click()
        await seen.has(f"{answer} === '3 events are tried again.'")
        await seen.headline("Healthy")
        until(lambda: left(dsn) == [], 10)
        await seen.has("document.getElementById('retry-all').offsetParent === null")
    audit = "select count(*), count(distinct decided_by) from relay.decision where action = 'retry'"
    assert asked_for(dsn, audit) == [(5, 1)]


async def test_nine_dead_events_fit_on_the_screen_of_a_phone(
    browser: Browser, shown: Served, dsn: str
) -> None:
    error = "message size exceeds maximum allowed: 1,310,720 bytes of 1,048,576"
    for id_ in range(900_001, 900_010):
        park(dsn, id_, key=f"order-{id_}", error=error)
    async with looking_at(browser, shown.url, size=PHONE) as seen:
        await seen.has("document.querySelectorAll('#dead-table .event').length === 9")
        box = await seen.page.locator("section:has(#dead-table)").bounding_box()
        assert box is not None
        assert box["height"] < PHONE[1]
        for button in await seen.page.locator("section:has(#dead-table) button").all():
            size = await button.bounding_box()
            assert size is not None
            assert size["height"] >= 44


async def test_what_others_wrote_is_shown_as_text_and_steers_nothing(
    browser: Browser, shown: Served, dsn: str
) -> None:
    park(dsn, 5, key=EVIL, error=EVIL)
    park(dsn, 8, dead=False, key=f"{EVIL}2", subject="nobody.listens", error=EVIL)
    async with looking_at(browser, shown.url) as seen:
        await seen.has("document.querySelectorAll('#dead-table .event').length > 0")
        told = await seen.text("#dead-table .error")
        assert told.startswith('<img src=x onerror="pwned=1"><script>pwned=1</script>\\u{202e}gnp')
        assert "\\u{1b}[2J" in told
        assert await seen.page.locator("table img, table script").count() == 0
        assert await seen.page.evaluate("typeof pwned") == "undefined"


async def test_its_focus_stays_where_it_is_while_the_page_is_told_news(
    browser: Browser, shown: Served, dsn: str
) -> None:
    park(dsn, 5, 7)
    async with looking_at(browser, shown.url) as seen:
        await seen.has("document.querySelectorAll('#dead-table .event').length === 2")
        await seen.tab_to("[aria-label='Retry event 7']")
        park(dsn, 6)
        await seen.has("document.querySelectorAll('#dead-table .event').length === 3")
        assert await focused(seen) == "Retry event 7"
        order = await seen.page.locator("#dead-table .event td:first-child").all_text_contents()
        assert order == ["5", "6", "7"]


async def focused(seen: Seen) -> str:
    return str(await seen.page.evaluate("document.activeElement.getAttribute('aria-label')"))
