import subprocess
import sys

import opid_agents


def test_everything_in_all_is_there():
    assert all(getattr(opid_agents, name) is not None for name in opid_agents.__all__)
    assert set(opid_agents.__all__) <= set(dir(opid_agents))


def test_importing_the_package_does_not_load_torch():
    program = "import sys, opid_agents; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
