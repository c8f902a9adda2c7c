// Says on the ISDO accordion how many times the model will be called, or that another sampler is chosen.
(() => {
    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);

    const field = (id) => root().querySelector(`#${id} input, #${id} textarea`);

    const value = (id) => {
        const radio = root().querySelector(`#${id} input[type=radio]:checked`);
        const found = radio || field(id);
        return found ? found.value : undefined;
    };

    const number = (id) => Number(value(id));

    const setting = (name) => (typeof opts === "object" && opts ? opts[name] : undefined);

    // The host's rule for the part of the steps that denoising strength leaves.
    const stepsFromImage = (steps, strength) => Math.floor(Math.min(strength, 0.999) * steps) + 1;

    const passes = {
        txt2img: () => {
            const steps = number("txt2img_steps");
            const first = value("txt2img_sampling") === "ISDO" ? steps : 0;
            const hires = root().querySelector("#txt2img_hr-checkbox input, #txt2img_enable_hr input");
            if (!hires || !hires.checked) return first;
            const chosen = value("hr_sampler");
            const same = chosen === undefined || chosen === "Use same sampler";
            const second = (same ? value("txt2img_sampling") : chosen) === "ISDO";
            return first + (second ? number("txt2img_hires_steps") || steps : 0);
        },
        img2img: () => {
            if (value("img2img_sampling") !== "ISDO") return 0;
            const steps = number("img2img_steps");
            return setting("img2img_fix_steps") ? steps : stepsFromImage(steps, number("img2img_denoising_strength"));
        },
    };

    const refresh = () => {
        for (const tab of Object.keys(passes)) {
            const title = root().querySelector(`#script_${tab}_isdo_enable .label-wrap span`);
            if (!title || value(`${tab}_sampling`) === undefined) continue;
            let note = title.querySelector(".isdo-calls");
            if (!note) {
                note = document.createElement("span");
                note.className = "isdo-calls";
                note.style.cssText = "opacity: 0.6; margin-left: 0.6em; font-weight: normal";
                title.appendChild(note);
            }
            const calls = passes[tab]();
            const text = calls > 0 ? `${calls} model calls a picture` : calls === 0 ? "another sampler is chosen" : "";
            if (note.textContent !== text) note.textContent = text; // writing it anew would call us again
        }
    };

    if (typeof onUiLoaded !== "function") return;
    onUiLoaded(() => {
        refresh();
        for (const event of ["input", "change", "click"]) {
            root().addEventListener(event, () => setTimeout(refresh, 50), {passive: true});
        }
    });
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(refresh); // pasting sets values without an event
})();
