"""A Ray cluster of two nodes on one machine, each with its own folder and cache, and a SuperLink that uses it."""

import shutil
import tempfile
from pathlib import Path

from tests.integration.superlink import NAME, ROOT, Processes, flower_environment
from tests.ports import free_port, is_open

NODES = ("head", "second")

# Each node has one core, and a client takes one: so each runs one client at a time.
RESOURCES = ["--num-cpus", "1", "--object-store-memory", "100000000"]

# Ray's own choice of ports is a range that other tests take theirs from.
ANY_PORT = [
    *("--min-worker-port", "0", "--max-worker-port", "0"),
    *("--dashboard-agent-listen-port", "0", "--dashboard-agent-grpc-port", "0"),
]


class RayCluster:
    """Starts with the ``with`` block, and ends with it, whatever happens inside.

    Attributes:
        folder: holds a folder for each node, which is the current one of its clients.
    """

    def __init__(self, environment):
        """Prepare a cluster.

        Args:
            environment: that in which ``fedtrain`` runs.
        """
        # Ray has sockets in it, whose paths may have some hundred letters.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._ray, self._port = free_port(), free_port()
        home = self.folder / "home"
        home.mkdir()
        (home / "config.toml").write_text(f'[superlink.{NAME}]\naddress = "127.0.0.1:{self._port}"\ninsecure = true\n')
        self._environment = {
            **flower_environment(home, environment),
            "RAY_ADDRESS": f"127.0.0.1:{self._ray}",
            "RAY_TMPDIR": str(self.folder),  # also for the file that names a machine's cluster to whoever asks for none
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._processes = []
        self._driver = self._on("driver", self._environment)

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        for processes in self._processes:
            processes.end()
        shutil.rmtree(self.folder)

    def _start(self):
        self._join("head", "--head", "--port", self._ray, "--include-dashboard=false")
        self._join("second", "--address", f"127.0.0.1:{self._ray}")
        superlink = ["flower-superlink", "--insecure", "--simulation", "--disable-runtime-dependency-installation"]
        self._driver.start("superlink", *superlink, "--host", "127.0.0.1", "--port", self._port)
        self._driver.wait_for(lambda: is_open(self._port), "the SuperLink listens")

    def _join(self, name, *arguments):
        node = self._on(name, {**self._environment, "FEDTRAIN_CACHE": str(self.cache(name))})
        node.start("ray", "ray", "start", *arguments, *RESOURCES, *ANY_PORT, "--block")
        node.wait_for(lambda: "Ray runtime started" in node.log("ray"), f"the node {name} runs")

    def _on(self, name, environment):
        processes = Processes(self.folder / name, environment)
        self._processes.append(processes)
        return processes

    def cache(self, name):
        """Return the folder in which clients on a node keep what they have read of the data; they make it."""
        return self.folder / f"cache-{name}"

    def run(self, config, *, clients):
        """Run an experiment to its end with empty caches, and return what was printed."""
        for name in NODES:
            shutil.rmtree(self.cache(name), ignore_errors=True)
        federation = f"num-supernodes={clients} client-resources-num-cpus=1"
        settings = ["--run-config", config, "--federation-config", federation]
        run = self._driver.start("run", "flwr", "run", ROOT, NAME, *settings, "--stream")
        self._driver.wait_for(lambda: run.poll() is not None, "the run has ended", seconds=900)
        self._driver.forget(run)
        return self._driver.log("run")
