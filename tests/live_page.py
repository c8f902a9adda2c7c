"""The plugin on a real WebUI's page, in headless Chromium: run as live_webui.py; CHROMIUM names the
browser if it is not found.

LIVE_SHOTS names a folder for pictures of the page.
"""

import io
import os
import shutil
from pathlib import Path

import livehost
import numpy as np
import pytest
from live_webui import CONTROLS, SCHEDULE, scene
from livehost import Host, ours, rms
from PIL import Image

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium found: set CHROMIUM to one"),
]
SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=BROWSER, headless=True, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def page(webui, browser):
    """The WebUI's page, freshly loaded, with the eps checkpoint; the test fails if a script of ours
    caused an error on it."""
    webui.model("tiny-eps")
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.route(
        "**/*",
        lambda r: (
            r.continue_() if r.request.url.startswith((webui.url, "data:", "blob:")) else r.abort()
        ),
    )
    errors = []
    page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
    page.on(
        "console", lambda m: errors.append(f"{m.text} {m.location}") if m.type == "error" else None
    )
    page.webui = webui
    load(page)
    yield page
    page.close()
    assert [error for error in errors if "isdo" in error.lower()] == []


def load(page):
    page.goto(page.webui.url)
    ready(page)


def ready(page):
    page.wait_for_selector("#txt2img_sampling input", timeout=90_000)
    page.wait_for_selector(
        ".isdo-calls", state="attached", timeout=30_000
    )  # our script has run, so have the host's
    page.wait_for_timeout(1500)


def choices(page, element):
    """Return what a dropdown offers; its list stays open."""
    page.click(f"#{element} input")
    page.wait_for_selector(f"#{element} ul.options li")
    return page.eval_on_selector_all(
        f"#{element} ul.options li", "e => e.map(x => x.getAttribute('aria-label'))"
    )


def pick(page, element, value):
    assert choices(page, element).count(value) == 1
    page.click(f'#{element} ul.options li[aria-label="{value}"]')


def number(page, element, value):
    page.fill(f"#{element} input[type=number]", str(value))
    page.press(f"#{element} input[type=number]", "Tab")
    page.wait_for_timeout(400)


def small(page, tab="txt2img", seed=3):
    """Ask for a small picture with ISDO."""
    page.fill(f"#{tab}_prompt textarea", PROMPT)
    pick(page, f"{tab}_sampling", "ISDO")
    for name, value in (("steps", 7), ("width", 128), ("height", 128)):
        number(page, f"{tab}_{name}", value)
    page.fill(f"#{tab}_seed input", str(seed))
    page.press(f"#{tab}_seed input", "Tab")


def ours_on(page, key, tab="txt2img"):
    """Return the id of one of our controls."""
    return f"script_{tab}_isdo_{key}"


def tick(page, tab="txt2img"):
    """Let the accordion's values count, or no more."""
    page.click(f"#{ours_on(page, 'enable', tab)} input")
    page.wait_for_timeout(500)


def open_accordion(page, tab="txt2img"):
    """Open the accordion and what stands under More."""
    page.click(f"#{ours_on(page, 'accordion', tab)} > .label-wrap > .icon")
    page.wait_for_selector(f"#{ours_on(page, 'more', tab)} > .label-wrap > .icon", state="visible")
    page.click(f"#{ours_on(page, 'more', tab)} > .label-wrap > .icon")
    page.wait_for_selector(f"#{ours_on(page, 'order', tab)} input[type=number]", state="visible")


def counts(page, tab="txt2img"):
    """Say whether the accordion's values count."""
    return page.eval_on_selector(f"#{ours_on(page, 'enable', tab)} input", "e => e.checked")


def generate(page, tab="txt2img"):
    """Press Generate; return the picture and its infotext."""
    find = f"() => (document.querySelector('#{tab}_gallery img') || {{}}).src"
    before = page.evaluate(find)
    page.click(f"#{tab}_generate")
    page.wait_for_function(
        f"before => {{ const now = ({find})(); return now && now !== before }}",
        arg=before,
        timeout=120_000,
    )
    page.wait_for_function(
        f"() => document.querySelector('#{tab}_interrupt').style.display !== 'block'",
        timeout=120_000,
    )
    page.wait_for_selector(f"#html_info_{tab}:has-text('Sampler:')")
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.request.get(page.evaluate(find)).body()))
    return np.asarray(picture.convert("RGB")), picture.info["parameters"]


def shown(page, element):
    """Return what a control shows."""
    find = "e => (e.querySelector('input[type=number]') || e.querySelector('input')).value"
    return page.eval_on_selector(f"#{element}", find)


def paste(page, infotext, tab="txt2img"):
    """Put an infotext into the prompt and press the arrow."""
    page.fill(f"#{tab}_prompt textarea", infotext)
    page.click(f"#{tab}_tools #paste, #{tab}_tools button[title*='Read generation parameters']")
    page.wait_for_function(
        f"() => document.querySelector('#{tab}_prompt textarea').value.indexOf('Steps:') < 0"
    )
    page.wait_for_timeout(1200)


def shoot(page, name):
    if os.environ.get("LIVE_SHOTS"):
        page.screenshot(path=str(Path(os.environ["LIVE_SHOTS"]) / name))


def test_generate_paste_generate_the_same(page):
    small(page)
    open_accordion(page)
    number(page, ours_on(page, "order"), 2)
    pick(page, ours_on(page, "power"), "zero")
    picture, text = generate(page)
    values = Host.parse(text)
    assert values["Sampler"] == "ISDO" and ours(values) == {"ISDO order": "2", "ISDO power": "zero"}
    shoot(page, "isdo.png")
    load(page)
    assert shown(page, "txt2img_sampling") != "ISDO"  # else the next lines prove nothing
    assert shown(page, ours_on(page, "order")) == "4"
    paste(page, text)
    assert shown(page, "txt2img_sampling") == "ISDO"
    assert (
        shown(page, ours_on(page, "order")) == "2" and shown(page, ours_on(page, "power")) == "zero"
    )
    again, same_text = generate(page)
    assert same_text == text
    assert np.array_equal(again, picture)


def test_pasting_a_plain_run_takes_our_values_back(page):
    small(page)
    plain, text = generate(page)
    assert ours(Host.parse(text)) == {}
    open_accordion(page)
    number(page, ours_on(page, "order"), 1)
    other, other_text = generate(page)
    assert ours(Host.parse(other_text)) == {"ISDO order": "1"} and rms(other, plain) > 0
    paste(page, text)
    again, same_text = generate(page)
    assert same_text == text and np.array_equal(again, plain)


def test_to_look_changes_nothing_and_to_change_counts_until_it_is_unticked(page):
    small(page)
    plain, text = generate(page)
    open_accordion(page)
    page.click(f"#{refine_on(page, 'accordion')} > .label-wrap > .icon")
    again, same_text = generate(page)
    assert same_text == text and np.array_equal(again, plain) and not counts(page)
    number(page, ours_on(page, "order"), 1)
    page.wait_for_timeout(800)
    assert counts(page) and shown(page, ours_on(page, "preset")) == "Custom"
    tick(page)
    again, same_text = generate(page)
    assert same_text == text and np.array_equal(again, plain)
    page.click(f"#{ours_on(page, 'defaults')}")
    page.wait_for_timeout(1200)
    assert (
        shown(page, ours_on(page, "order")) == "4"
        and shown(page, ours_on(page, "preset")) == "Fast"
    )


def test_what_has_no_effect_is_grey(page):
    open_accordion(page)
    page.click(f"#{refine_on(page, 'accordion')} > .label-wrap > .icon")
    disabled = "e => e.querySelector('input').disabled"
    grey = lambda element: page.eval_on_selector(f"#{element}", disabled)  # noqa: E731
    assert grey(refine_on(page, "strength")) and not grey(ours_on(page, "response"))
    pick(page, refine_on(page, "generators"), "shifts")
    number(page, ours_on(page, "corrector"), 0)
    page.wait_for_timeout(800)
    assert not grey(refine_on(page, "strength")) and grey(ours_on(page, "response"))
    assert not page.is_visible(f"#{ours_on(page, 'follow')}")


def settings_page(page, title):
    page.click("#tabs > .tab-nav button:has-text('Settings')")
    page.wait_for_timeout(800)
    find = f"() => [...document.querySelectorAll('#settings .tab-nav button')].find(e => e.textContent.trim() === '{title}')"
    page.evaluate(f"{find.replace('() => ', '() => (', 1)}).click()")
    page.wait_for_timeout(500)


def test_untouched_accordions_follow_the_settings(page):
    def apply(value):
        settings_page(page, "ISDO")
        number(page, "setting_isdo_order", value)
        page.click("#settings_submit")
        page.wait_for_timeout(2500)
        page.click("#tabs > .tab-nav button:has-text('txt2img')")

    assert (
        page.locator("#settings .settings-category:has-text('ISDO')").count()
        or "categories" not in page.webui.text()
    )
    try:
        apply(3)
        assert shown(page, ours_on(page, "order")) == "3"
        open_accordion(page)
        number(page, ours_on(page, "order"), 2)
        page.wait_for_timeout(800)
        apply(1)
        assert shown(page, ours_on(page, "order")) == "2"  # what a person set stays
    finally:
        apply(4)


def test_the_settings_help_is_there_for_every_kind_of_control(page):
    settings_page(page, "ISDO")
    for field in CONTROLS:
        if len(field.choices) != 1:
            assert field.help in page.inner_text(f"#setting_isdo_{field.key}")
    shoot(page, "settings.png")


def test_pasting_one_bad_value_takes_the_good_ones_and_says_so_in_a_line(page):
    before = page.webui.text().count("Traceback")
    ours_s = "ISDO order: 9, ISDO tau: root, ISDO placement: 0.5"
    paste(page, f"{PROMPT}\nSteps: 6, Sampler: ISDO, Seed: 3, Size: 128x128, {ours_s}")
    assert (
        shown(page, ours_on(page, "tau")) == "root"
        and shown(page, ours_on(page, "placement")) == "0.5"
    )
    assert shown(page, ours_on(page, "order")) == "4" and counts(page)
    said = page.text_content(f"#{ours_on(page, 'notice')}")
    assert "left out: order is 9: give a whole number from 1 to 4" in said and "tau" not in said
    assert page.webui.text().count("Traceback") == before


def test_one_click_on_interrupt_stops_a_picture_that_is_being_refined(page):
    small(page)
    page.click(f"#{refine_on(page, 'accordion')} > .label-wrap > .icon")
    tick_refine(page)
    number(page, refine_on(page, "iterations"), 500)
    page.webui.get("/live-probe/calls")
    page.click("#txt2img_generate")
    state = {"sampling_step": 0}
    while state["sampling_step"] < 20:
        page.wait_for_timeout(50)
        state = page.webui.get("/sdapi/v1/progress?skip_current_image=true")["state"]
    page.click("#txt2img_interrupt")
    page.wait_for_selector("#html_info_txt2img:has-text('Sampler:')")
    page.wait_for_timeout(1000)
    assert 20 <= len(page.webui.get("/live-probe/calls")) < 400
    assert "iterations" in page.inner_text("#html_info_txt2img")


def test_pasting_a_hires_run(page):
    text = (
        f"{PROMPT}\nSteps: 6, Sampler: Euler, Schedule type: Automatic, CFG scale: 5, Seed: 3, Size: 128x128, Model: tiny-eps, "
        "Denoising strength: 0.6, Hires upscale: 2, Hires steps: 4, Hires upscaler: Latent, Hires sampler: ISDO, ISDO order: 1"
    )
    paste(page, text)
    assert shown(page, "txt2img_sampling") == "Euler" and shown(page, "hr_sampler") == "ISDO"
    assert shown(page, ours_on(page, "order")) == "1"
    picture, got = generate(page)
    values = Host.parse(got)
    assert values["Hires sampler"] == "ISDO" and ours(values) == {"ISDO order": "1"}
    assert picture.shape[:2] == (256, 256)


def test_the_accordion_tells_the_calls(page):
    note = f"#{ours_on(page, 'accordion')} .isdo-calls"
    before = page.inner_text(note)
    small(page)
    page.wait_for_function(f"() => document.querySelector('{note}').textContent.includes('7')")
    assert "7" not in before and page.locator(note).count() == 1
    page.click("#txt2img_hr > .label-wrap > .icon")
    page.wait_for_selector("#txt2img_hires_steps input[type=number]", state="visible")
    number(page, "txt2img_hires_steps", 4)
    page.wait_for_function(
        f"() => document.querySelector('{note}').textContent.includes('11 model calls')"
    )
    page.webui.get("/live-probe/calls")
    generate(page)
    assert len(page.webui.get("/live-probe/calls")) == 11
    page.click("#txt2img_hr > .label-wrap > .icon")
    page.wait_for_function(
        f"() => /\\b7 model calls/.test(document.querySelector('{note}').textContent)"
    )
    pick(page, "txt2img_sampling", "Euler")
    page.wait_for_function(f"() => !/[0-9]/.test(document.querySelector('{note}').textContent)")


def test_the_accordion_tells_the_calls_of_img2img(page):
    page.click("#tabs > .tab-nav button:has-text('img2img')")
    pick(page, "img2img_sampling", "ISDO")
    note = f"#{ours_on(page, 'accordion', 'img2img')} .isdo-calls"
    black = livehost.encode(np.zeros((64, 64, 3), np.uint8))
    for steps, strength in ((7, 0.5), (20, 0.33), (9, 1)):
        number(page, "img2img_steps", steps)
        number(page, "img2img_denoising_strength", strength)
        ask = {
            "sampler_name": "ISDO",
            "steps": steps,
            "denoising_strength": strength,
            "init_images": [black],
        }
        calls = len(page.webui.picture("img2img", **ask).calls)
        page.wait_for_function(
            f"() => document.querySelector('{note}').textContent.startsWith('{calls} model calls')"
        )


def test_img2img_tab_has_it_all(page):
    page.click("#tabs > .tab-nav button:has-text('img2img')")
    assert choices(page, "img2img_sampling").count("ISDO") == 1
    page.keyboard.press("Escape")
    open_accordion(page, "img2img")
    for field in CONTROLS:
        assert page.locator(f"#{ours_on(page, field.key, 'img2img')}").count() == (
            1 if len(field.choices) != 1 else 0
        ) or (not page.is_visible(f"#{ours_on(page, field.key, 'img2img')}"))


def test_reload_ui_twice(page):
    small(page)
    first, text = generate(page)
    for turn in (1, 2):
        started = page.webui.text().count("Startup time:")
        page.evaluate(
            "() => [...gradioApp().querySelectorAll('#footer a, footer a')].find(e => /Reload UI/.test(e.textContent)).click()"
        )
        # the browser's events are looked at meanwhile: the page goes on asking for the WebUI that
        # is away
        page.webui.wait_started(
            started + 1, pause=lambda seconds: page.wait_for_timeout(1000 * seconds)
        )
        page.wait_for_timeout(3000)
        load(page)
        assert choices(page, "txt2img_sampling").count("ISDO") == 1
        page.keyboard.press("Escape")
        if page.locator("#txt2img_scheduler").count():
            assert choices(page, "txt2img_scheduler").count(SCHEDULE) == 1
            page.keyboard.press("Escape")
        assert page.locator(f"#{ours_on(page, 'enable')}").count() == 1
        small(page)
        again, same_text = generate(page)
        assert same_text == text and np.array_equal(again, first), (
            f"another picture after reload {turn}"
        )
    names = [sampler["name"] for sampler in page.webui.get("/sdapi/v1/samplers")]
    assert names.count("ISDO") == 1
    assert page.webui.get("/isdo/v1/version")["name"] == "ISDO"
    labels = [s["name"] for s in page.webui.get("/sdapi/v1/script-info") if s["name"] == "isdo"]
    assert len(labels) == 2  # txt2img and img2img


# ------------------------------------------------------------------------------------------------------------ ISDO refine


def refine_on(page, key, tab="txt2img"):
    """Return the id of a control of the refinement's accordion; with no tab, of the script's."""
    return f"script_{tab}_isdo_refine_{key}" if tab else f"script_isdo_refine_{key}"


def tick_refine(page, tab="txt2img"):
    box = f"#{refine_on(page, 'enable', tab)} input"
    if not page.is_visible(box):
        page.click(f"#{refine_on(page, 'accordion', tab)} > .label-wrap > .icon")
        page.wait_for_selector(box, state="visible")
    page.click(box)
    page.wait_for_timeout(800)


def is_ticked(page, tab="txt2img"):
    return page.eval_on_selector(f"#{refine_on(page, 'enable', tab)} input", "e => e.checked")


def give_picture(page, array, folder):
    """Upload a picture into img2img, whose tab is opened."""
    path = folder / "scene.png"
    Image.fromarray(array).save(path)
    page.click("#tabs > .tab-nav button:has-text('img2img')")
    page.wait_for_timeout(500)
    page.locator(
        "#img2img_image input[type=file], #img2img_img2img_tab input[type=file]"
    ).first.set_input_files(str(path))
    page.wait_for_timeout(2500)


def test_refine_and_paste_and_refine_the_same(page):
    small(page)
    pick(page, "txt2img_sampling", "Euler")
    number(page, "txt2img_steps", 12)
    assert not is_ticked(page)
    plain, text = generate(page)
    assert ours(Host.parse(text)) == {}
    tick_refine(page)
    number(page, refine_on(page, "noise"), 0.5)
    page.click(f"#{refine_on(page, 'same')} input")
    picture, text = generate(page)
    told = {
        "ISDO refine": "4 iterations, 12 calls",
        "ISDO refine noise": "0.5",
        "ISDO refine same sampler": "True",
    }
    assert ours(Host.parse(text)) == told and rms(picture, plain) > 1
    shoot(page, "refine.png")
    load(page)
    assert not is_ticked(page) and shown(page, refine_on(page, "noise")) == "1"
    paste(page, text)
    assert is_ticked(page) and shown(page, refine_on(page, "noise")) == "0.5"
    again, same_text = generate(page)
    assert same_text == text and np.abs(again.astype(int) - picture).max() <= 1


def test_pasting_a_plain_run_switches_refinement_off(page):
    small(page)
    plain, text = generate(page)
    tick_refine(page)
    refined, refined_text = generate(page)
    assert (
        ours(Host.parse(refined_text)) == {"ISDO refine": "2 iterations, 6 calls"}
        and rms(refined, plain) > 1
    )  # seven steps
    paste(page, text)
    assert not is_ticked(page)
    again, same_text = generate(page)
    assert same_text == text and np.abs(again.astype(int) - plain).max() <= 1


def test_the_script_and_paste_and_the_script_again(page, tmp_path):
    give_picture(page, scene(), tmp_path)
    small(page, "img2img")
    number(page, "img2img_steps", 12)
    pick(page, "tab_img2img #script_list", "ISDO refine")
    page.wait_for_selector(f"#{refine_on(page, 'noise', None)} input[type=number]", state="visible")
    number(page, refine_on(page, "noise", None), 0.5)
    picture, text = generate(page, "img2img")
    told = {"ISDO refine": "4 iterations, 12 calls", "ISDO refine noise": "0.5"}
    assert ours(Host.parse(text)) == told and Host.parse(text)["Script"] == "ISDO refine"
    shoot(page, "refine-script.png")
    load(page)
    give_picture(page, scene(), tmp_path)
    paste(page, text, "img2img")
    assert shown(page, "tab_img2img #script_list") == "ISDO refine" and not is_ticked(
        page, "img2img"
    )
    assert shown(page, refine_on(page, "noise", None)) == "0.5" and page.is_visible(
        f"#{refine_on(page, 'noise', None)}"
    )
    again, same_text = generate(page, "img2img")
    assert same_text == text and np.abs(again.astype(int) - picture).max() <= 1
    assert rms(picture, scene()) > 1
