import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed

from experiments.costs import main

if __name__ == '__main__':
    main()
