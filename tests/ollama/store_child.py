"""`check_owner` as another user: PATH USER; prints the id of the refusal. Begins as root."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rfctl.core.error import RefusedError
from rfctl.ollama.direct import check_owner


def main() -> None:
    # Only now: the interpreter's own files may be closed to that user.
    os.setuid(int(sys.argv[2]))
    try:
        check_owner(Path(sys.argv[1]))
    except RefusedError as error:
        print(error.id)


if __name__ == "__main__":
    main()
