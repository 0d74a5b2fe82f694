"""A head behind a port mapping: all that peers connect to is shifted by the same number."""

from pathlib import Path

import jobs_across as jobs
from fleet import Fleet


def test_jobs_go_through_ports_that_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    with Fleet(tmp_path / "fleet", proxied=True, lanes=2) as fleet:
        assert fleet.port != fleet.listens[1]
        fleet.start_head()
        fleet.start_foreman("mapped", workers=1)
        with fleet.client() as client:
            assert list(client.map(jobs.nothing, range(3))) == [0, 1, 2]
        assert fleet.proxies.lanes.down > 0
