// Says beside the titles of ISDO's accordions how many times the model will be called, and lets their controls follow the
// Settings. The numbers are the server's: it knows samplers, schedules and the refinement's own rule.
(() => {
    const WAIT = 200; // ms without another change
    const TABS = ["txt2img", "img2img"];

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);

    const input = (id) => root().querySelector(`#${id} input, #${id} textarea`);

    // What a control holds, as text; undefined where there is none.
    const value = (id) => {
        const radio = root().querySelector(`#${id} input[type=radio]:checked`);
        const found = radio || input(id);
        if (!found) return undefined;
        return found.type === "checkbox" ? (found.checked ? "True" : "False") : found.value;
    };

    const ticked = (id) => value(id) === "True";

    // {key: text} of the controls whose ids begin with a prefix.
    const values = (prefix) => {
        const found = {};
        for (const element of root().querySelectorAll(`[id^="${prefix}"]`)) {
            const text = value(element.id);
            if (text !== undefined) found[element.id.slice(prefix.length)] = text;
        }
        return found;
    };

    const hires = () => {
        const box = root().querySelector("#txt2img_hr-checkbox input, #txt2img_enable_hr input");
        return Boolean(box && box.checked);
    };

    const page = (tab) => {
        const ours = `script_${tab}_isdo_`;
        const asked = {
            tab: tab, sampler: value(`${tab}_sampling`), scheduler: value(`${tab}_scheduler`), steps: value(`${tab}_steps`),
            strength: value(`${tab}_denoising_strength`),
        };
        if (tab === "txt2img" && hires()) {
            Object.assign(asked, {
                hires: true, hr_steps: value("txt2img_hires_steps"), hr_sampler: value("hr_sampler"),
                hr_scheduler: value("hr_scheduler"),
            });
        }
        if (ticked(`${ours}enable`)) asked.values = values(ours);
        if (ticked(`${ours}refine_enable`)) asked.refine = values(`${ours}refine_`);
        const chosen = root().querySelector(`#${tab}_script_container #script_list input`);
        if (tab === "img2img" && chosen && chosen.value === "ISDO refine") asked.script = values("script_isdo_refine_");
        return asked;
    };

    const note = (id, text) => {
        const title = root().querySelector(`#${id} .label-wrap span`);
        if (!title) return;
        let found = title.querySelector(".isdo-calls");
        if (!found) {
            found = document.createElement("span");
            found.className = "isdo-calls";
            found.style.cssText = "opacity: 0.6; margin-left: 0.6em; font-weight: normal";
            title.appendChild(found);
        }
        if (found.textContent !== text) found.textContent = text; // writing it anew would call us again
    };

    const said = {}; // what was asked for last, by tab

    const refresh = async() => {
        for (const tab of TABS) {
            const asked = page(tab);
            const text = JSON.stringify(asked);
            if (asked.sampler === undefined || said[tab] === text) continue;
            said[tab] = text;
            try {
                const answer = await fetch(`isdo/v1/calls?page=${encodeURIComponent(text)}`);
                if (!answer.ok) continue;
                const told = await answer.json();
                if (said[tab] !== text) continue; // the page has changed since
                note(`script_${tab}_isdo_accordion`, told.sampler);
                note(`script_${tab}_isdo_refine_accordion`, told.refine);
            } catch (error) {
                said[tab] = undefined; // the server is away: ask again
            }
        }
    };

    let waiting = null;
    const soon = () => {
        clearTimeout(waiting);
        waiting = setTimeout(refresh, WAIT);
    };

    const followers = () => [...root().querySelectorAll('[id^="script_"][id*="isdo"][id$="_follow"]')];

    // The Settings were applied: what nobody has touched shows the new values.
    const follow = () => followers().forEach((button) => button.click());

    if (typeof onUiLoaded !== "function") return;
    onUiLoaded(() => {
        followers().forEach((button) => (button.style.display = "none"));
        soon();
        for (const event of ["input", "change", "click"]) root().addEventListener(event, soon, {passive: true});
        if (typeof onOptionsChanged === "function") onOptionsChanged(follow);
    });
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(soon); // pasting sets values without an event
})();
