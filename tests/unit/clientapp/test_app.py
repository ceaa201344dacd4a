import subprocess
import sys


def test_a_message_that_the_mods_answer_needs_no_torch():
    code = "import sys; import clients.app; print('torch' in sys.modules, 'flwr.clientapp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
