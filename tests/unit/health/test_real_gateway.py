import shutil
import subprocess

import pytest

from fedtrain.crypto import Identity
from fedtrain.health.server import control_api, database, loopback_only
from fedtrain.machines import Federation, ServerFolder
from tests.ports import free_port
from tests.unit.health import superlinks

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_protocols TLSv1.3; ssl_certificate {folder}/server.crt; ssl_certificate_key {folder}/server.key;
    location {forwarded} {{ proxy_pass https://{address}; }}
    location /nothing {{ return 404; }}
  }}
}}
"""

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs Debian's package nginx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("superlink")


@pytest.fixture(scope="module")
def link(folder):
    with superlinks.superlink(folder) as found:
        yield found


@pytest.fixture
def gateway(folder, link):
    """Return a function that starts nginx before the SuperLink, forwarding what is named."""
    started = []

    def start(forwarded):
        port = free_port()
        (folder / "nginx.conf").write_text(
            NGINX.format(folder=folder, port=port, forwarded=forwarded, address=link.address)
        )
        command = ["nginx", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        superlinks.wait_for(port)
        federation = Federation(id="ab" * 16, address=f"127.0.0.1:{port}", operator=Identity.generate().public)
        return ServerFolder(path=folder, federation=federation), ("127.0.0.1", port)

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=superlinks.PATIENCE)


def test_a_gateway_that_forwards_the_fleet_api_alone(gateway):
    assert control_api(*gateway("/v1/fleet/")).detail == "the gateway refuses it (404)"


def test_a_gateway_that_forwards_everything(gateway):
    check = control_api(*gateway("/"))
    assert check.status == "fails"
    assert "was answered with status 200" in check.detail


def test_the_superlink_is_out_of_reach_and_its_database_in_order(link):
    check = loopback_only(link.database)
    assert check.status == "ok"
    assert link.address in check.detail
    assert database(link.database).status == "ok"
