"""What takes long to make and is only looked at afterwards, made once for all processes of a test run."""

from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock


def made_once(shared, name, make):
    """Return the folder of this name, which no other process of the test run makes again.

    Args:
        shared: a folder that all processes of the test run have in common.
        name: what the folder is called; its name is one part of a path.
        make: fills the new folder that it is given. If it raises, or its process ends, somebody else begins anew.
    """
    done = shared / name
    # The system gives the lock of a process that ended to the next.
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            draft = Path(mkdtemp(prefix=f"{name}-", dir=shared))
            make(draft)
            # What is made may hold its own path, so it stays where it is.
            done.symlink_to(draft)
        return done.resolve()
