"""Two copies of the extension in a real WebUI: see livehost.py for what to set."""

import livehost
import pytest

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(livehost.missing() is not None, reason=str(livehost.missing())),
]


def test_a_second_copy_is_refused_by_name_and_the_first_goes_on(tmp_path):
    host = livehost.Host(tmp_path / "data", second="the-other-copy")
    try:
        (line,) = [
            line for line in host.text().splitlines() if "ImportError: ISDO is here twice" in line
        ]
        assert "the-other-copy" in line and (
            "some-folder-name" in line or str(livehost.ROOT) in line
        )
        assert [row["name"] for row in host.get("/sdapi/v1/samplers")].count("ISDO") == 1
        host.model("tiny-eps")
        got = host.picture(sampler_name="ISDO")
        assert got.values["Sampler"] == "ISDO" and len(got.calls) == 8
    finally:
        host.stop()
