"""`python -I .../medgen/worker/__main__.py --session ID --shipment N [--path FOLDER ...]`, started by the client.

The package need not be installed: this file finds it by its own place. Kept to old syntax, so that an old Python can
say that it is too old.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from medgen.worker.protocol import encode

    try:
        if sys.version_info < (3, 11):
            raise ImportError("it needs Python 3.11 or later, not {}.{}".format(*sys.version_info[:2]))
        from medgen.worker.server import main
    except ImportError as error:
        sentence = f"The worker's Python cannot run MedGen ({error}): run 'medgen setup' to repair it."
        sys.stdout.buffer.write(encode("refused", sentence=sentence))
        sys.stdout.buffer.flush()
        sys.exit(3)
    main()
