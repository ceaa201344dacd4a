"""nginx before the SuperLink: TLS 1.3, and nothing but what nodes ask for.

Flower's SuperLink serves nodes and operators at one port, and lets anyone who reaches it register nodes and run code.
It listens on this machine's loopback alone; requests from outside pass here.
"""

import shutil
from pathlib import Path

from fedtrain.errors import RunError, SiteError
from fedtrain.files import write_atomic
from fedtrain.machines.folders import ServerFolder

# The requests of Flower's Fleet API are all of this form. What is encoded, doubled or has a query is something else.
# The SuperLink closes idle connections after five seconds; the gateway does so before, or a request would now and then
# meet a closed one.
_CONFIGURATION = """\
daemon off;
pid "{temporary}/nginx.pid";
error_log stderr error;
worker_processes 2;
{user}
events {{ worker_connections 2048; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path "{temporary}/body";
    proxy_temp_path "{temporary}/proxy";
    fastcgi_temp_path "{temporary}/fastcgi";
    uwsgi_temp_path "{temporary}/uwsgi";
    scgi_temp_path "{temporary}/scgi";
    client_max_body_size 64m;
    client_body_timeout 60s;
    client_header_timeout 20s;
    limit_conn_zone $binary_remote_addr zone=address:1m;
    limit_conn_log_level info;
    server {{
        listen {port} ssl;
        {version_six}
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        ssl_session_tickets off;
        limit_conn address 128;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_read_timeout 120s;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_trusted_certificate {ca};
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        location = /health {{
            if ($request_method !~ "^(GET|HEAD)$") {{ return 405; }}
            proxy_pass https://superlink/health;
        }}
        location ~ ^/v1/fleet/ {{
            if ($request_uri !~ "^/v1/fleet/[a-z-]+$") {{ return 404; }}
            if ($request_method != POST) {{ return 405; }}
            proxy_pass https://superlink;
        }}
        location / {{ return 404; }}
    }}
    upstream superlink {{
        server 127.0.0.1:{superlink};
        keepalive 16;
        keepalive_timeout 3s;
    }}
}}
"""


def find_nginx() -> Path:
    """Return where nginx is.

    Raises:
        RunError: it is not installed.
    """
    # Debian has it where only root's path leads.
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RunError(
            "there is no nginx on this machine, which lets nodes in; install it: apt-get install nginx-light"
        )
    return Path(found)


def write_configuration(path: Path, server: ServerFolder, *, superlink: int, temporary: Path, root: bool) -> None:
    """Write what nginx is to do.

    Args:
        path: the file.
        server: the server's folder.
        superlink: the SuperLink's port on loopback.
        temporary: a folder for nginx alone, that its worker processes can enter.
        root: whether it is started by root; its worker processes then run as nobody.

    Raises:
        SiteError: nginx cannot read the path of the server's folder.
        StorageError: it cannot be written.
    """
    text = _CONFIGURATION.format(
        temporary=temporary,
        port=server.federation.port,
        version_six=f"listen [::]:{server.federation.port} ssl;" if Path("/proc/net/if_inet6").exists() else "",
        certificate=_quoted(server.certificate),
        key=_quoted(server.certificate_key),
        ca=_quoted(server.ca),
        superlink=superlink,
        user="user nobody nogroup;" if root else "",
    )
    write_atomic(path, text.encode())


def _quoted(path: Path) -> str:
    text = str(path)
    # nginx takes what follows a dollar for a variable's name, and has no way to write one.
    if "$" in text or not text.isprintable():
        raise SiteError(f"nginx cannot read files in {path.parent}: move the folder to a path of plain characters")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
